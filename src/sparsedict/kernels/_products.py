"""Exact products of a sparse matrix ``[n_tokens, n_latents]`` with dense matrices, by the device's backend."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.kernels._backend import backend_for
from sparsedict.latents import Support


@torch.no_grad()
def weighted_rows(
    values: Float[Tensor, " n_entries"], support: Support, rows: Float[Tensor, "n_latents d"]
) -> Float[Tensor, "n_tokens d"]:
    """Returns the sparse matrix times ``rows``: the weighted sum of the rows of each token's latents."""
    return backend_for(values.device).weighted_rows(values, support, rows)


@torch.no_grad()
def weighted_tokens(
    values: Float[Tensor, " n_entries"], support: Support, vectors: Float[Tensor, "n_tokens d"]
) -> Float[Tensor, "n_latents d"]:
    """Returns the transposed sparse matrix times ``vectors``: weighted sums of the vectors of each latent's tokens."""
    return backend_for(values.device).weighted_tokens(values, support, vectors)


@torch.no_grad()
def sampled_product(
    vectors: Float[Tensor, "n_tokens d"], rows: Float[Tensor, "n_latents d"], support: Support
) -> Float[Tensor, " n_entries"]:
    """Returns ``vectors @ rows.T`` at the stored entries, and zero at padding."""
    return backend_for(vectors.device).sampled_product(vectors, rows, support)


@torch.no_grad()
def sum_by_latent(values: Float[Tensor, " n_entries"], support: Support) -> Float[Tensor, " n_latents"]:
    """Returns the sum of each latent's entries."""
    return backend_for(values.device).sum_by_latent(values, support)
