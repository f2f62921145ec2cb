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
"""Where they aren't given, in units of the data."""

LEAST = 0.01
"""Threshold, in units of the data, below which none is moved from outside."""


@dataclass(frozen=True)
class JumpReLU(Activation):
    """``p`` where ``p`` exceeds the latent's own learned threshold, else 0.

    The jump has no true derivative in the threshold. A straight-through estimator gives one: a box of width
    ``bandwidth`` around the threshold, so inactive latents just below it receive a gradient too. Train it with
    the penalty :class:`sparsedict.L0` or :class:`sparsedict.TargetL0`. Where a penalty rewards latents that fire, which
    a positive coefficient never does, the same box gives the pre-activations a gradient too.

    Args:
        threshold: Threshold of every latent at the start. ``None`` is 0.1 in units of the data, whose spread ``fit``
            measures before the first step.
        bandwidth: Width of the box, in units of the pre-activations. ``None`` is 1 in units of the data.

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
        # What rounding to the thresholds' own type has left out of moves from outside: bfloat16 has few digits.
        left_out = torch.zeros(n_latents, device="cpu", dtype=torch.float32)
        return {"unit": torch.ones((), device="cpu", dtype=torch.float32), "left_out": left_out}

    @torch.no_grad()
    def begin_(self, state: State, *, latents: float, is_new: bool) -> None:
        thresholds = state["log_threshold"]
        start = math.log(self._start)
        # Thresholds that were set by hand stay.
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
        # A small threshold must move by more than its own share to change what fires; the smallest change nothing.
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
        # A little too low: rounded to the threshold itself, as in half precision, it would leave out some of the box.
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
        # Where firing is rewarded, pre-activations rise too; what costs moves thresholds alone, as in the source.
        return grad.clamp_max(0.0) * box, _reduce(-box * grad, threshold), None


def _reduce(grad: Tensor, threshold: Tensor) -> Tensor:
    return grad.sum_to_size(threshold.shape).to(threshold.dtype)
