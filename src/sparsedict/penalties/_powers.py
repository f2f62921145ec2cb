"""`L1`, `Sqrt` and `Lp`, penalties on powers of latents."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.dictionaries import Dictionary
from sparsedict.penalties._penalty import Coefficient, LatentPenalty, set_coefficient


@dataclass(frozen=True, eq=False)
class L1(LatentPenalty):
    """``coefficient * sum |a|``, mean over tokens.

    If another implementation sums over the B tokens of a batch, as in slavachalnev, "Sparse MLP Distillation", 2024,
    its coefficient must be multiplied by B.

    Args:
        coefficient: An absolute weight in units of the data: a number, or one per latent. For data multiplied by ``s``,
            the same balance with the squared error needs ``s`` times the coefficient.

    Example:
        >>> import sparsedict as sd
        >>> sd.L1(0.2)
        L1(coefficient=0.2)
    """

    coefficient: Coefficient

    def __post_init__(self) -> None:
        set_coefficient(self)

    def cost(self, values: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
        return values.abs()


@dataclass(frozen=True, eq=False)
class Sqrt(LatentPenalty):
    """``coefficient * sum (sqrt(a + eps) - sqrt(eps))``, mean over tokens, for non-negative latents.

    Args:
        coefficient: An absolute weight in units of the data to the power 1.5: a number, or one per latent. For data
            multiplied by ``s``, the same balance with the squared error needs ``s ** 1.5`` times the coefficient.
        eps: Bounds the slope at zero, where it is ``1 / (2 sqrt(eps))``. It has the units of the data.
    """

    coefficient: Coefficient
    eps: float = 1e-6

    def __post_init__(self) -> None:
        set_coefficient(self)
        checks.set_in_range(self, "eps", 0.0, open_low=True)

    def cost(self, values: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
        # The same as sqrt(a + eps) - sqrt(eps), but exactly zero at zero in every precision.
        return values / ((values + self.eps).sqrt() + self.eps**0.5)

    def check_cost(self, dictionary: Dictionary) -> None:
        super().check_cost(dictionary)
        _require_non_negative_latents(self, dictionary)


@dataclass(frozen=True, eq=False)
class Lp(LatentPenalty):
    """``coefficient * sum ((a + eps)^p - eps^p)``, mean over tokens, for non-negative latents.

    Args:
        coefficient: An absolute weight in units of the data to the power ``2 - p``: a number, or one per latent. For
            data multiplied by ``s``, the same balance with the squared error needs ``s ** (2 - p)`` times the
            coefficient.
        p: The power, in (0, 1].
        eps: Bounds the slope at zero. It has the units of the data.
    """

    coefficient: Coefficient
    p: float
    eps: float = 1e-6

    def __post_init__(self) -> None:
        set_coefficient(self)
        checks.set_in_range(self, "p", 0.0, 1.0, open_low=True)
        checks.set_in_range(self, "eps", 0.0, open_low=True)

    def cost(self, values: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
        # The same as (a + eps)^p - eps^p, but exactly zero at zero in every precision.
        return self.eps**self.p * (self.p * (values / self.eps).log1p()).expm1()

    def check_cost(self, dictionary: Dictionary) -> None:
        super().check_cost(dictionary)
        _require_non_negative_latents(self, dictionary)


def _require_non_negative_latents(penalty: LatentPenalty, dictionary: Dictionary) -> None:
    if not dictionary.activation.non_negative:
        raise ValueError(
            f"`activation` must have non-negative latents for {type(penalty).__name__}, got {dictionary.activation}. "
            "Use L1, or a ReLU, TopK or JumpReLU activation."
        )
