"""Settings that all other libraries share, scaled to short runs."""

from __future__ import annotations

from torch import Tensor

import sparsedict as sd

DEAD_AFTER = 50_000
"""Tokens after which a latent counts as dead in recipes with our settings, as in ours."""


def our_lr(d_in: int, n_latents: int) -> float:
    """Returns the default rate of sparsedict, which is absolute for activations with a variance of 1."""
    autoencoder = sd.SparseAutoencoder(d_in, n_latents, activation=sd.TopK(1), decoder_norm=sd.UnitNorm())
    return sd.training.default_lr(autoencoder)


def threshold_for(values: Tensor, k: float) -> float:
    """Returns the threshold that ``k`` values per token exceed on average.

    The moving averages of the libraries start after more steps than these runs have.

    Args:
        values: Nonnegative latents before the selection, ``[n_tokens, n_latents]``.
        k: Number of active latents per token.
    """
    flat = values.flatten()
    return float(flat.kthvalue(max(1, len(flat) - round(k * len(values)))).values)
