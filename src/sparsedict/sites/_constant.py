"""`Constant`, a constant vector in place of an activation."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.batches import ROLES
from sparsedict.display import Displayed
from sparsedict.types import Role


@dataclass(frozen=True, eq=False, repr=False)
class Constant(Displayed):
    """A constant vector in place of an activation, for zero and mean ablation.

    It has no latents. ``decode`` returns the vector at every position.

    Args:
        value: The vector, ``[d]``.
        writes: Role of the activation that the vector replaces.

    Example:
        >>> import torch
        >>> constant = Constant(torch.tensor([1.0, 2.0]))
        >>> constant.decode(constant.encode(torch.zeros(3, 2))).shape
        torch.Size([3, 2])
    """

    value: Float[Tensor, " d"]
    writes: Role = "outputs"

    def __post_init__(self) -> None:
        if not isinstance(self.value, Tensor) or self.value.ndim != 1 or not self.value.is_floating_point():
            got = tuple(self.value.shape) if isinstance(self.value, Tensor) else type(self.value).__name__
            raise ValueError(f"`value` must be a floating-point vector [d], got {got}.")
        checks.one_of("writes", self.writes, ROLES)

    @property
    def reads(self) -> Role:
        """The same role as ``writes``. The activations themselves are ignored."""
        return self.writes

    def encode(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch 0"]:
        """Returns an empty tensor of latents."""
        return x[..., :0]

    def decode(self, latents: Float[Tensor, "*batch 0"]) -> Float[Tensor, "*batch d"]:
        """Returns the vector at every position."""
        return self.value.to(latents.device).expand(*latents.shape[:-1], -1)
