from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparsedict import checks
from sparsedict.activations._activation import Activation, State
from sparsedict.selections import Above, Selection


@dataclass(frozen=True)
class JumpReLU(Activation):
    """``p`` where ``p`` exceeds the latent's own learned threshold, else 0.

    The jump has no true derivative in the threshold. A straight-through estimator gives one: a box of width
    ``bandwidth`` around the threshold, so inactive latents just below it receive a gradient too. Train it with
    the penalty :class:`sparsedict.L0`.

    Args:
        threshold: Threshold of every latent at the start.
        bandwidth: Width of the box, in units of the pre-activations.

    Source: Rajamanoharan et al., "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse
    Autoencoders", 2024.
    """

    threshold: float = 0.001
    bandwidth: float = 0.001

    def __post_init__(self) -> None:
        checks.set_in_range(self, "threshold", 0.0, open_low=True)
        checks.set_in_range(self, "bandwidth", 0.0, open_low=True)

    def initial_state(self, n_latents: int) -> dict[str, Tensor]:
        return {
            "log_threshold": nn.Parameter(
                torch.full((n_latents,), math.log(self.threshold), device="cpu", dtype=torch.float32)
            )
        }

    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return _Jump.apply(pre, state["log_threshold"].exp(), self.bandwidth)

    def firing(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return _Step.apply(pre, state["log_threshold"].exp(), self.bandwidth)

    def selection(self, state: State, *, training: bool) -> Selection:
        threshold = state["log_threshold"].detach().exp()
        return Above(self._lowest(threshold) if training else threshold)

    def _lowest(self, threshold: Tensor) -> Tensor:
        # A little too low: rounded to the threshold itself, as in half precision, it would leave out some of the box.
        return threshold * (1 - torch.finfo(threshold.dtype).eps) - 0.51 * self.bandwidth


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(pre <= threshold, 0.0, pre)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        pre, threshold = ctx.saved_tensors
        box = ((pre - threshold).abs() < ctx.bandwidth / 2).to(grad.dtype) / ctx.bandwidth
        return torch.where(pre <= threshold, 0.0, grad), _reduce(-threshold * box * grad, threshold), None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        pre, threshold = ctx.saved_tensors
        box = ((pre - threshold).abs() < ctx.bandwidth / 2).to(grad.dtype) / ctx.bandwidth
        return None, _reduce(-box * grad, threshold), None


def _reduce(grad: Tensor, threshold: Tensor) -> Tensor:
    return grad.sum_to_size(threshold.shape).to(threshold.dtype)
