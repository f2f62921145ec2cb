"""`Tanh`, a bounded penalty on the size of latents."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.penalties._penalty import Coefficient, LatentPenalty, set_coefficient


@dataclass(frozen=True, eq=False)
class Tanh(LatentPenalty):
    """``coefficient * sum tanh(scale * |a|)``, mean over tokens: a smooth count of active latents.

    Unlike L1 it hardly shrinks large latents, whose cost is constant. The source weights latents by the norms of their
    decoder rows: ``NormWeighted(Tanh(c))``.

    Args:
        coefficient: Cost of one large latent in units of the squared error: a number, or one per latent. It is
            absolute: for data multiplied by ``s``, the same balance with the squared error needs ``s ** 2`` times the
            coefficient, and ``1 / s`` times ``scale``.
        scale: Inverse of the size of latents at which the cost saturates; 4 in the source, for activations with a
            spread of 1.

    Source: Conerly et al., "Dictionary Learning Optimization Techniques", Circuits Updates, January 2025.

    Example:
        >>> import sparsedict as sd
        >>> sd.NormWeighted(sd.Tanh(0.2))
        NormWeighted(penalty=Tanh(coefficient=0.2, scale=4.0))
    """

    coefficient: Coefficient
    scale: float = 4.0

    def __post_init__(self) -> None:
        set_coefficient(self)
        checks.set_in_range(self, "scale", 0.0, open_low=True)

    def cost(self, values: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
        return (values.abs() * self.scale).tanh()
