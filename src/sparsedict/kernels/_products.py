"""The three exact products of a sparse matrix ``[n_tokens, n_latents]`` with dense ones.

PyTorch's embedding bag computes each of them on every device without ever making a dense ``[n_tokens, n_latents]``
array: it sums weighted rows of a table, which is a sparse-dense product, and the gradient of its weights is the dense
product sampled at the stored entries.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.latents import Support


def weighted_rows(
    values: Float[Tensor, " n_entries"], support: Support, rows: Float[Tensor, "n_latents d"]
) -> Float[Tensor, "n_tokens d"]:
    """Returns the sparse matrix times ``rows``: for each token the sum of its latents' rows, weighted."""
    return _bag(rows, support.latents, support.offsets, values)


def weighted_tokens(
    values: Float[Tensor, " n_entries"], support: Support, vectors: Float[Tensor, "n_tokens d"]
) -> Float[Tensor, "n_latents d"]:
    """Returns the transposed sparse matrix times ``vectors``: for each latent the sum of its tokens' vectors."""
    turned = support.by_latent
    return _bag(vectors, turned.tokens, turned.offsets, values[turned.order])


def sampled_product(
    vectors: Float[Tensor, "n_tokens d"], rows: Float[Tensor, "n_latents d"], support: Support
) -> Float[Tensor, " n_entries"]:
    """Returns ``vectors @ rows.T`` at the stored entries."""
    dtype = torch.promote_types(vectors.dtype, rows.dtype)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        vectors.to(dtype).contiguous(), rows.to(dtype), support.latents, support.offsets, support.tokens, _SUM
    )


def sum_by_latent(values: Float[Tensor, " n_entries"], support: Support) -> Float[Tensor, " n_latents"]:
    """Returns the sum of each latent's entries."""
    # Many entries fall on one latent: half precision would drop most of them.
    dtype = torch.promote_types(values.dtype, torch.float32)
    sums = torch.zeros(support.n_latents, dtype=dtype, device=values.device)
    return sums.index_add_(0, support.latents, values.to(dtype)).to(values.dtype)


_SUM = 0  # the code of embedding bag's mode


def _bag(table: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    dtype = torch.promote_types(table.dtype, weights.dtype)
    return torch.nn.functional.embedding_bag(
        rows,
        table.to(dtype),
        offsets,
        per_sample_weights=weights.to(dtype),
        mode="sum",
        include_last_offset=True,
    )
