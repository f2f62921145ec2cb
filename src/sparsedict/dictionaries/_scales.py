"""How large activations are, and from that the units in which a dictionary's parameters are measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.dictionaries._encoder_decoder import EncoderDecoder
from sparsedict.latents import SparseLatents, Support

PROBED = 256
"""Tokens on which the gain of a kind's reconstruction is measured."""


@dataclass(frozen=True)
class Scales:
    """How far activations lie from their mean, per dimension, on a typical token.

    Attributes:
        inputs: Of what the dictionary reads.
        encoded: Of what its encoder's matrix is applied to.
        latents: Of what it decodes: the targets, less what the reconstruction multiplies the decoder's output by.
        targets: Of what it should give.
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
        """Measures them on some tokens."""
        encoded = dictionary.encoder_inputs(inputs) if dictionary.has_affine_encoder else inputs
        target = spread(targets)
        latents = target / gain(dictionary, inputs, target)
        return cls(spread(inputs), spread(encoded), latents, target)


def spread(rows: Float[Tensor, "n_tokens d"]) -> float:
    """Returns the distance from the mean, per dimension, of the median token; tokens of huge norm don't change it.

    Rows that are all the same have their own length instead, zeros have 1.
    """
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    for distances in ((wide - wide.mean(0)).norm(dim=-1), wide.norm(dim=-1)):
        for typical in (distances.median(), distances.square().mean().sqrt()):
            # The remaining difference between equal rows is rounding.
            if bool(typical.isfinite()) and float(typical) > 1e-6 * float(wide.abs().max()):
                return float(typical.double()) / rows.shape[-1] ** 0.5
    return 1.0


@torch.no_grad()
def gain(dictionary: EncoderDecoder, inputs: Float[Tensor, "n_tokens d_in"], size: float) -> float:
    """Returns by what a kind's ``reconstruct`` multiplies what is decoded, on a typical token.

    Args:
        dictionary: What is looked at.
        inputs: Tokens to look at.
        size: About how large its latents are, or its outputs.
    """
    if not len(inputs):
        return 1.0
    inputs = inputs[:PROBED]
    indices = torch.arange(len(inputs), device=inputs.device) % dictionary.n_latents
    support = Support.from_indices(indices[:, None], dictionary.n_latents)
    values = torch.full_like(dictionary.encoder_bias[:1], size).expand(len(inputs))
    one, none = (SparseLatents(v, support, torch.Size((len(inputs),))) for v in (values, torch.zeros_like(values)))
    given = (dictionary.reconstruct(one, inputs) - dictionary.reconstruct(none, inputs)).norm(dim=-1)
    found = float((given / (dictionary.decoder[indices].norm(dim=-1) * size)).median())
    # A difference of outputs has the rounding of outputs.
    return found if 0 < found < float("inf") and abs(found - 1) > 1e-3 else 1.0
