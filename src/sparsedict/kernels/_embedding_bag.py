"""The sparse products with PyTorch's embedding bag, the default backend.

An embedding bag sums weighted rows of a table, which is a sparse-dense product. The gradient of its weights is the
dense product at the stored entries.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.latents import Support


def weighted_rows(
    values: Float[Tensor, " n_entries"], support: Support, rows: Float[Tensor, "n_latents d"]
) -> Float[Tensor, "n_tokens d"]:
    stored = _stored(support)
    return _bag(rows, support.latents[stored], support.offsets, values[stored])


def weighted_tokens(
    values: Float[Tensor, " n_entries"], support: Support, vectors: Float[Tensor, "n_tokens d"]
) -> Float[Tensor, "n_latents d"]:
    turned, owned = support.by_latent, _stored(support)
    tokens, weights = turned.tokens[owned], values.index_select(0, turned.order[owned])
    shape = (support.n_latents, vectors.shape[1])
    out = None
    if support.memory is not None and math.prod(shape) > REUSED_ENTRIES:
        out = support.memory.take(shape, torch.promote_types(values.dtype, vectors.dtype))
    if out is None:
        return _bag(vectors, tokens, turned.offsets, weights)
    size = max(1, PART_ENTRIES // shape[1])
    for begin in range(0, support.n_latents, size):
        offsets = turned.offsets[begin : begin + size + 1]
        stored = slice(int(offsets[0]), int(offsets[-1]))
        out[begin : begin + size] = _bag(vectors, tokens[stored], offsets - offsets[0], weights[stored])
    return out


def sampled_product(
    vectors: Float[Tensor, "n_tokens d"], rows: Float[Tensor, "n_latents d"], support: Support
) -> Float[Tensor, " n_entries"]:
    dtype = torch.promote_types(vectors.dtype, rows.dtype)
    found = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        vectors.to(dtype).contiguous(), rows.to(dtype), support.latents, support.offsets, support.tokens, _SUM
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


def _stored(support: Support) -> slice:
    # Reading the last offset synchronises with an accelerator. Only Triton gets padding there.
    return slice(int(support.offsets[-1])) if support.has_padding else slice(None)


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
