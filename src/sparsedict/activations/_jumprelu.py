"""`JumpReLU`, a ReLU with a learned threshold for each latent."""

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

THRESHOLD, BANDWIDTH = 0.1, 1.0
"""Default threshold and bandwidth, in units of the data."""

LEAST = 0.01
"""Smallest threshold that `TargetL0` can set, in units of the data."""


@dataclass(frozen=True)
class JumpReLU(Activation):
    """``p`` where ``p`` exceeds the latent's learned threshold, else 0.

    The jump has no derivative with respect to the threshold. A straight-through estimator replaces it by a box of width
    ``bandwidth`` around the threshold, so inactive latents just below the threshold also receive a gradient. Train it
    with the penalty :class:`sparsedict.L0` or :class:`sparsedict.TargetL0`. A penalty with a negative coefficient
    rewards latents that fire. Only then does the box also give pre-activations a gradient.

    Args:
        threshold: Initial threshold of every latent. ``None`` stands for 0.1 in units of the data, whose spread ``fit``
            measures before the first step.
        bandwidth: Width of the box, in units of the pre-activations. ``None`` stands for 1 in units of the data.

    Source: Rajamanoharan et al., "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse
    Autoencoders", 2024.
    """

    threshold: float | None = None
    bandwidth: float | None = None

    def __post_init__(self) -> None:
        for name in ("threshold", "bandwidth"):
            if getattr(self, name) is not None:
                checks.set_in_range(self, name, 0.0, open_low=True)

    @property
    def _start(self) -> float:
        return THRESHOLD if self.threshold is None else self.threshold

    def initial_state(self, n_latents: int) -> dict[str, Tensor]:
        return {
            "log_threshold": nn.Parameter(
                torch.full((n_latents,), math.log(self._start), device="cpu", dtype=torch.float32)
            )
        }

    def training_state(self, n_latents: int) -> dict[str, Tensor]:
        # Accumulates the changes of thresholds that are lost by rounding to their dtype, such as bfloat16.
        left_out = torch.zeros(n_latents, device="cpu", dtype=torch.float32)
        return {"unit": torch.ones((), device="cpu", dtype=torch.float32), "left_out": left_out}

    @torch.no_grad()
    def begin_(self, state: State, *, latents: float, is_new: bool) -> None:
        thresholds = state["log_threshold"]
        start = math.log(self._start)
        # Explicit thresholds don't change.
        if is_new and self.threshold is None and bool((thresholds - start).abs().max() < 1e-2):
            thresholds.fill_(start + math.log(latents))
        state["unit"].fill_(latents)
        state["left_out"].zero_()

    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return _Jump.apply(pre, state["log_threshold"].exp(), self._width(state))

    def firing(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return _Step.apply(pre, state["log_threshold"].exp(), self._width(state))

    @torch.no_grad()
    def move_thresholds_(self, state: State, amount: Float[Tensor, ""]) -> None:
        thresholds, left_out = state["log_threshold"], state["left_out"]
        wide = torch.promote_types(thresholds.dtype, torch.float32)
        exact, unit = thresholds.to(wide), state["unit"].to(wide)
        # A relative change of a very small threshold would not change which latents fire.
        share = (THRESHOLD * unit / exact.exp()).clamp(1.0, THRESHOLD / LEAST)
        moved = torch.maximum(exact + left_out + amount * share, exact.clamp_max((LEAST * unit).log()))
        thresholds.copy_(moved)
        # The logarithm of a threshold of zero is infinite.
        left_out.copy_((moved - thresholds.to(wide)).nan_to_num(0.0))

    def selection(self, state: State, *, training: bool) -> Selection:
        threshold = state["log_threshold"].detach().exp()
        return Above(self._lowest(threshold, self._width(state)) if training else threshold)

    def _width(self, state: State) -> Tensor:
        unit = state.get("unit")
        if self.bandwidth is None and unit is not None:
            return unit * BANDWIDTH
        width = BANDWIDTH if self.bandwidth is None else self.bandwidth
        return torch.full((), width, dtype=state["log_threshold"].dtype, device=state["log_threshold"].device)

    def _lowest(self, threshold: Tensor, width: Tensor) -> Tensor:
        # Slightly lower, since rounding in half precision could exclude a part of the box.
        return threshold * (1 - torch.finfo(threshold.dtype).eps) - 0.51 * width


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: Tensor) -> Tensor:
        ctx.save_for_backward(pre, threshold, bandwidth)
        return torch.where(pre <= threshold, 0.0, pre)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        pre, threshold, bandwidth = ctx.saved_tensors
        box = ((pre - threshold).abs() < bandwidth / 2).to(grad.dtype) / bandwidth.to(grad.dtype)
        return torch.where(pre <= threshold, 0.0, grad), _reduce(-threshold * box * grad, threshold), None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: Tensor) -> Tensor:
        ctx.save_for_backward(pre, threshold, bandwidth)
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        pre, threshold, bandwidth = ctx.saved_tensors
        box = ((pre - threshold).abs() < bandwidth / 2).to(grad.dtype) / bandwidth.to(grad.dtype)
        # Rewards also raise pre-activations. Costs move only thresholds, as in the source.
        return grad.clamp_max(0.0) * box, _reduce(-box * grad, threshold), None


def _reduce(grad: Tensor, threshold: Tensor) -> Tensor:
    return grad.sum_to_size(threshold.shape).to(threshold.dtype)
