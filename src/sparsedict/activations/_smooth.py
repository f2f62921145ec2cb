"""`GELU` and `SiLU`, smooth activations whose latents are almost never zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sparsedict import checks
from sparsedict.activations._activation import Activation, State


@dataclass(frozen=True)
class GELU(Activation):
    """``p * Phi(p)``, with ``Phi`` the normal distribution function. Almost every latent fires on every token.

    Args:
        approximate: ``"none"`` for the error function, ``"tanh"`` for its approximation (GPT-2's).

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.
    """

    approximate: Literal["none", "tanh"] = "none"

    non_negative = False

    def __post_init__(self) -> None:
        checks.one_of("approximate", self.approximate, ("none", "tanh"))

    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return functional.gelu(pre, approximate=self.approximate)


@dataclass(frozen=True)
class SiLU(Activation):
    """``p * sigmoid(p)``. Almost every latent fires on every token."""

    non_negative = False

    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return functional.silu(pre)
