"""The sparse products with PyTorch's embedding bag, the default backend.

An embedding bag sums weighted rows of a table, which is a sparse-dense product. The gradient of its weights is the
dense product at the stored entries. On a CPU, ``torch.sparse.sampled_addmm`` computes that product faster.
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.latents import Support


def weighted_rows(
    values: Float[Tensor, " n_entries"], support: Support, rows: Float[Tensor, "n_latents d"]
) -> Float[Tensor, "n_tokens d"]:
    stored, shape = _stored(support), (support.n_tokens, rows.shape[1])
    if support.memory is None or math.prod(shape) <= REUSED_ENTRIES or values.device.type != "cpu":
        return _bag(rows, support.latents[stored], support.offsets, values[stored])
    out = support.memory.array(shape, torch.promote_types(values.dtype, rows.dtype))
    return _fill(out, rows, support.latents, support.offsets, values)


def weighted_tokens(
    values: Float[Tensor, " n_entries"], support: Support, vectors: Float[Tensor, "n_tokens d"]
) -> Float[Tensor, "n_latents d"]:
    turned, owned, vectors = support.by_latent, _stored(support), vectors.contiguous()
    tokens, weights = turned.tokens[owned], values.index_select(0, turned.order[owned])
    shape = (support.n_latents, vectors.shape[1])
    out = None
    if support.memory is not None and math.prod(shape) > REUSED_ENTRIES:
        out = support.memory.take(shape, torch.promote_types(values.dtype, vectors.dtype))
    if out is None:
        return _bag(vectors, tokens, turned.offsets, weights)
    return _fill(out, vectors, tokens, turned.offsets, weights)


def sampled_product(
    vectors: Float[Tensor, "n_tokens d"], rows: Float[Tensor, "n_latents d"], support: Support
) -> Float[Tensor, " n_entries"]:
    dtype = torch.promote_types(vectors.dtype, rows.dtype)
    vectors, rows = vectors.detach().to(dtype), rows.detach().to(dtype)
    if vectors.device.type == "cpu" and dtype in _SAMPLED_TYPES and not support.has_padding and min(rows.shape):
        return _sampled(vectors, rows, support)
    found = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        vectors.contiguous(), rows, support.latents, support.offsets, support.tokens, _SUM
    )
    return torch.where(support.is_stored, found, 0.0) if support.has_padding else found


def sum_by_latent(values: Float[Tensor, " n_entries"], support: Support) -> Float[Tensor, " n_latents"]:
    if support.has_padding:
        values = torch.where(support.is_stored, values, 0.0)
    # Many entries belong to one latent. In half precision, most of them would be lost in the sum.
    dtype = torch.promote_types(values.dtype, torch.float32)
    sums = torch.zeros(support.n_latents, dtype=dtype, device=values.device)
    return sums.index_add_(0, support.latents, values.to(dtype)).to(values.dtype)


REUSED_ENTRIES = 2**20
"""Number of entries of a result above which the memory of the support is used for it."""

PART_ENTRIES = 2**20
"""Number of entries that are computed at a time for a result in reused memory."""

_SUM = 0  # the mode code of embedding bags


_SAMPLED_TYPES = (torch.float32, torch.float64)
"""Types that ``sampled_addmm`` supports."""


SAMPLED_BYTES = 2**23
"""Size of the vectors that are gathered at a time for a product at entries, so that they stay in a CPU's cache."""


def _sampled(vectors: Tensor, rows: Tensor, support: Support) -> Tensor:
    """Returns the product at the entries by ``sampled_addmm``.

    In the order of latents, each row is read once for many vectors, which are gathered and usually fewer than the rows.
    The order has no influence on the result, but sorting takes time, so it is only used if the entries are sorted.
    """
    if not support.is_sorted_by_latent:
        return _sampled_entries(support.offsets, support.latents, vectors, rows)
    vectors = vectors.contiguous()
    size = max(1, -(-len(vectors) * SAMPLED_BYTES // max(vectors.nbytes, SAMPLED_BYTES)))
    if size >= len(vectors):
        return _sampled_by_latent(support, vectors, rows)
    parts = [support.of_tokens(begin, begin + size) for begin in range(0, len(vectors), size)]
    return torch.cat([_sampled_by_latent(*own, rows) for own in zip(parts, vectors.split(size), strict=True)])


def _sampled_by_latent(support: Support, vectors: Tensor, rows: Tensor) -> Tensor:
    turned = support.by_latent
    found = _sampled_entries(turned.offsets, turned.tokens, rows, vectors)
    return torch.empty_like(found).index_copy_(0, turned.order, found)


def _sampled_entries(offsets: Tensor, columns: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Returns ``left @ right.T`` at the entries of a matrix in CSR layout."""
    _use_up_csr_warning()
    shape = len(left), len(right)
    values = left.new_zeros(len(columns))  # the product multiplies these values by zero, so they must be finite
    options: Any = {"check_invariants": False, "device": left.device}
    entries = torch.sparse_csr_tensor(offsets.to(columns.dtype), columns, values, shape, **options)
    return torch.sparse.sampled_addmm(entries, left, right.contiguous().T, beta=0.0).values()


@cache
def _use_up_csr_warning() -> None:
    """Creates a first CSR tensor, for which PyTorch warns once in a process that this layout is in beta state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(
            torch.zeros(2, dtype=torch.int64, device="cpu"),
            torch.zeros(0, dtype=torch.int64, device="cpu"),
            torch.zeros(0, device="cpu", dtype=torch.float32),
            device="cpu",
        )


def _stored(support: Support) -> slice:
    # Reading the last offset synchronises with an accelerator. Only Triton gets padding there.
    return slice(int(support.offsets[-1])) if support.has_padding else slice(None)


def _fill(out: Tensor, table: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Writes the sums of an embedding bag to an array, a part at a time."""
    size = max(1, PART_ENTRIES // out.shape[1])
    for begin in range(0, len(out), size):
        own = offsets[begin : begin + size + 1]
        stored = slice(int(own[0]), int(own[-1]))
        out[begin : begin + size] = _bag(table, rows[stored], own - own[0], weights[stored])
    return out


def _bag(table: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    dtype = torch.promote_types(table.dtype, weights.dtype)
    index = torch.int32 if max(len(rows), len(table)) < 2**31 else torch.int64  # int32 is faster to read
    # On detached tensors, PyTorch skips computations for the backward pass.
    return torch.nn.functional.embedding_bag(
        rows.to(index),
        table.detach().to(dtype),
        offsets.to(index),
        per_sample_weights=weights.detach().to(dtype),
        mode="sum",
        include_last_offset=True,
    )
