"""`SquaredError`, the default reconstruction loss."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sparsedict import checks
from sparsedict.dictionaries import ForwardPass
from sparsedict.losses._loss import Loss


@dataclass(frozen=True)
class SquaredError(Loss):
    """``|reconstruction - target|^2``, summed over ``d_out``, mean over tokens."""

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        checks.same_shape("reconstruction", out.reconstruction, "targets", out.targets)
        return functional.mse_loss(out.reconstruction, out.targets, reduction="sum") / len(out.targets)
