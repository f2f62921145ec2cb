"""Pre-activations of an affine encoder at the entries of a support."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from sparsedict.kernels import affine_at
from sparsedict.latents import Support


@runtime_checkable
class AffineEncoder(Protocol):
    """The members of a dictionary that make its pre-activations affine."""

    encoder: nn.Parameter
    encoder_bias: nn.Parameter

    def encoder_inputs(self, x: Tensor, /) -> Tensor: ...


def affine_entries(
    dictionary: AffineEncoder,
    x: Float[Tensor, "n_tokens d_in"],
    support: Support,
    known: Float[Tensor, " n_entries"] | None,
    offset: Float[Tensor, " d_in"] | None = None,
) -> Float[Tensor, " n_entries"]:
    """Returns pre-activations at the entries of a support; the gradients are as sparse as the entries.

    Args:
        dictionary: A dictionary with an affine encoder.
        x: One row for each token.
        support: The entries.
        known: Their values, where these were computed to find the support.
        offset: A vector that `encoder_inputs` adds to every token, where it is all that `encoder_inputs` learns. Its
            gradient takes one product with a vector; the gradient of each token's input takes as long as decoding.
    """
    inputs = dictionary.encoder_inputs(x)
    known = None if known is None else known.detach().to(inputs.dtype)
    if offset is None or x.requires_grad:
        return affine_at(inputs, dictionary.encoder, dictionary.encoder_bias, support, known)
    return affine_at(inputs.detach(), dictionary.encoder, dictionary.encoder_bias, support, known, offset)
