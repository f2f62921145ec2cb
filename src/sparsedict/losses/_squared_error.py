"""`SquaredError`, the default reconstruction loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sparsedict import checks
from sparsedict.dictionaries import ForwardPass
from sparsedict.kernels import Workspace
from sparsedict.losses._loss import Loss

PART_ENTRIES = 2**17
"""Number of differences in memory at a time."""


@dataclass(frozen=True)
class SquaredError(Loss):
    """``|reconstruction - target|^2``, summed over ``d_out``, mean over tokens."""

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        checks.same_shape("reconstruction", out.reconstruction, "targets", out.targets)
        return sum_of_squares(out.reconstruction, out.targets, out.context.workspace) / len(out.targets)


def sum_of_squares(
    reconstruction: Float[Tensor, "n_tokens d_out"],
    targets: Float[Tensor, "n_tokens d_out"],
    workspace: Workspace | None = None,
) -> Float[Tensor, ""]:
    """Returns the sum of squared differences.

    Args:
        reconstruction: The reconstruction.
        targets: The targets.
        workspace: Memory of the step. On a CPU, no other large array is then needed.
    """
    on_cpu = reconstruction.device.type == "cpu"
    if workspace is None or not on_cpu or reconstruction.dtype != targets.dtype or targets.requires_grad:
        return functional.mse_loss(reconstruction, targets, reduction="sum")
    return _SumOfSquares.apply(reconstruction, targets, workspace)


class _SumOfSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reconstruction: Tensor, targets: Tensor, workspace: Workspace) -> Tensor:
        ctx.save_for_backward(reconstruction, targets)
        ctx.workspace = workspace
        size = max(1, PART_ENTRIES // max(reconstruction.shape[-1], 1))
        parts = zip(reconstruction.split(size), targets.split(size), strict=True)
        sums = [(own - target).square_().sum(dtype=torch.float64) for own, target in parts]
        return torch.stack(sums).sum().to(reconstruction.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        reconstruction, targets = ctx.saved_tensors
        found = ctx.workspace.array(tuple(reconstruction.shape), reconstruction.dtype)
        return torch.sub(reconstruction, targets, out=found).mul_(2 * grad), None, None
