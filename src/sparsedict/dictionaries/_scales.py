"""Scales of activations, from which the units of a dictionary's parameters follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.dictionaries._encoder_decoder import EncoderDecoder
from sparsedict.latents import SparseLatents, Support

PROBED = 256
"""Number of tokens on which `gain` is measured."""


@dataclass(frozen=True)
class Scales:
    """Distances of activations from their mean, per dimension, on a typical token.

    Attributes:
        inputs: Scale of the activations that the dictionary reads.
        encoded: Scale of the vectors that the encoder's matrix multiplies.
        latents: Scale of the latents: that of the targets divided by the gain of the reconstruction.
        targets: Scale of the activations that the dictionary reproduces.
    """

    inputs: float
    encoded: float
    latents: float
    targets: float

    @classmethod
    @torch.no_grad()
    def measured(
        cls,
        dictionary: EncoderDecoder,
        inputs: Float[Tensor, "n_tokens d_in"],
        targets: Float[Tensor, "n_tokens d_out"],
    ) -> Scales:
        """Measures the scales on some tokens."""
        encoded = dictionary.encoder_inputs(inputs) if dictionary.has_affine_encoder else inputs
        target = spread(targets)
        latents = target / gain(dictionary, inputs, target)
        return cls(spread(inputs), spread(encoded), latents, target)


def spread(rows: Float[Tensor, "n_tokens d"]) -> float:
    """Returns the median distance of tokens from their mean, per dimension, which is robust to tokens of huge norm.

    For equal rows, the result is the length of the rows instead. For zeros, it is 1.
    """
    wide, unit = _near_one(rows.to(torch.promote_types(rows.dtype, torch.float32)))
    for distances in ((wide - wide.mean(0)).norm(dim=-1), wide.norm(dim=-1)):
        for typical in (distances.median(), distances.square().mean().sqrt()):
            # Differences between equal rows are rounding errors.
            if bool(typical.isfinite()) and float(typical) > 1e-6 * float(wide.abs().max()):
                return unit * float(typical.double()) / rows.shape[-1] ** 0.5
    return 1.0


def _near_one(rows: Tensor) -> tuple[Tensor, float]:
    """Returns rows divided by the power of two below their largest magnitude, whose squares exist, and this power."""
    largest = float(rows.abs().max()) if rows.numel() else 0.0
    if not 0 < largest < float("inf"):
        return rows, 1.0
    unit = 2.0 ** (math.frexp(largest)[1] - 1)
    return rows / unit, unit


@torch.no_grad()
def gain(dictionary: EncoderDecoder, inputs: Float[Tensor, "n_tokens d_in"], size: float) -> float:
    """Returns the factor between ``reconstruct`` and ``latents @ decoder`` on a typical token.

    Args:
        dictionary: The dictionary.
        inputs: Activations that the dictionary reads.
        size: Approximate scale of the latents.
    """
    if not len(inputs):
        return 1.0
    inputs = inputs[:PROBED]
    indices = torch.arange(len(inputs), device=inputs.device) % dictionary.n_latents
    support = Support.from_indices(indices[:, None], dictionary.n_latents)
    values = torch.full_like(dictionary.encoder_bias[:1], size).expand(len(inputs))
    one, none = (SparseLatents(v, support, torch.Size((len(inputs),))) for v in (values, torch.zeros_like(values)))
    contribution = (dictionary.reconstruct(one, inputs) - dictionary.reconstruct(none, inputs)).norm(dim=-1)
    found = float((contribution / (dictionary.decoder_norms()[indices] * size)).median())
    # The contribution is a difference of outputs, so it has their rounding errors.
    return found if 0 < found < float("inf") and abs(found - 1) > 1e-3 else 1.0
