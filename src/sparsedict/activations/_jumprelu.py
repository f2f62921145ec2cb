"""`JumpReLU`, a ReLU with a learned threshold for each latent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

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
    rewards latents that fire. Only then, or with ``to_inputs``, does the box also give pre-activations a gradient.

    Args:
        threshold: Initial threshold of every latent. ``None`` stands for 0.1 in units of the data, whose spread ``fit``
            measures before the first step.
        bandwidth: Width of the box, in units of the pre-activations. ``None`` stands for 1 in units of the data.
        learns: The learned parameter: ``"logarithm"`` of the threshold, or the ``"threshold"`` itself. Adam changes the
            logarithm by about the learning rate in each step. A threshold of 0.01 therefore moves by a hundredth of
            the rate, and can't reach zero. A negative threshold acts as zero.
        to_inputs: Whether the estimator of the jump also has a gradient with respect to pre-activations, which reaches
            the encoder. For the latent it is ``threshold / bandwidth`` in the box, in addition to 1 above the
            threshold. For the count of `L0` it is ``1 / bandwidth``.

    Source: Rajamanoharan et al., "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse
    Autoencoders", 2024; ``to_inputs``: Conerly et al., "Dictionary Learning Optimization Techniques", Circuits Updates,
    January 2025, whose estimator gives all parameters a gradient.
    """

    threshold: float | None = None
    bandwidth: float | None = None
    learns: Literal["logarithm", "threshold"] = "logarithm"
    to_inputs: bool = False

    def __post_init__(self) -> None:
        checks.one_of("learns", self.learns, ("logarithm", "threshold"))
        checks.set_boolean(self, "to_inputs")
        for name in ("threshold", "bandwidth"):
            if getattr(self, name) is not None:
                checks.set_in_range(self, name, 0.0, open_low=True)

    @property
    def gives_state(self) -> bool:
        return self.threshold is not None

    @property
    def _start(self) -> float:
        return THRESHOLD if self.threshold is None else self.threshold

    @property
    def _name(self) -> str:
        return "log_threshold" if self.learns == "logarithm" else "threshold"

    def state_of(self, thresholds: Float[Tensor, " n_latents"]) -> dict[str, Tensor]:
        """Returns the state with the given thresholds."""
        return {self._name: thresholds.log() if self.learns == "logarithm" else thresholds}

    def initial_state(self, n_latents: int) -> dict[str, Tensor]:
        start = math.log(self._start) if self.learns == "logarithm" else self._start
        return {self._name: nn.Parameter(torch.full((n_latents,), start, device="cpu", dtype=torch.float32))}

    def training_state(self, n_latents: int) -> dict[str, Tensor]:
        # Accumulates the changes of thresholds that are lost by rounding to their dtype, such as bfloat16.
        left_out = torch.zeros(n_latents, device="cpu", dtype=torch.float32)
        return {"unit": torch.ones((), device="cpu", dtype=torch.float32), "left_out": left_out}

    @torch.no_grad()
    def begin_(self, state: State, *, latents: float, is_new: bool) -> None:
        thresholds = self.thresholds(state)
        # Explicit thresholds don't change.
        if is_new and self.threshold is None and bool((thresholds.log() - math.log(self._start)).abs().max() < 1e-2):
            learned = torch.full_like(state[self._name], self._start * latents, dtype=torch.float32)
            state[self._name].copy_(self.state_of(learned)[self._name])
        state["unit"].fill_(latents)
        state["left_out"].zero_()

    def units(self, latents: float) -> dict[str, float]:
        return {"threshold": latents} if self.learns == "threshold" else {}

    def thresholds(self, state: State) -> Float[Tensor, "*entries"]:
        learned = state[self._name]
        if self.learns == "logarithm":
            return learned.exp()
        # The gradient passes through the lower limit, so that a negative threshold can rise again.
        return learned + (learned.clamp_min(0.0) - learned).detach()

    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return _Jump.apply(pre, self.thresholds(state), self._width(state), self.to_inputs)

    def firing(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return _Step.apply(pre, self.thresholds(state), self._width(state), self.to_inputs)

    @torch.no_grad()
    def move_thresholds_(self, state: State, amount: Float[Tensor, ""]) -> None:
        learned, left_out = state[self._name], state["left_out"]
        wide = torch.promote_types(learned.dtype, torch.float32)
        unit, exact = state["unit"].to(wide), learned.to(wide)
        thresholds = self.thresholds({self._name: exact})
        # A relative change of a very small threshold would not change which latents fire.
        share = (THRESHOLD * unit / thresholds).clamp(1.0, THRESHOLD / LEAST)
        lowest = torch.minimum(thresholds, LEAST * unit)
        if self.learns == "logarithm":
            moved = torch.maximum(exact + left_out + amount * share, lowest.log())
        else:
            moved = torch.maximum((thresholds + left_out) * (amount * share).exp(), lowest)
            # A threshold of zero has no relative change.
            moved = torch.where((thresholds <= 0) & (amount > 0), LEAST * unit, moved)
        learned.copy_(moved)
        # The logarithm of a threshold of zero is infinite.
        left_out.copy_((moved - learned.to(wide)).nan_to_num(0.0))

    def selection(self, state: State, *, training: bool) -> Selection:
        threshold = self.thresholds(state).detach()
        needs_box = training or self.to_inputs  # gradients may be wanted in evaluation mode too
        return Above(self._lowest(threshold, self._width(state)) if needs_box else threshold)

    def _width(self, state: State) -> Tensor:
        unit = state.get("unit")
        if self.bandwidth is None and unit is not None:
            return unit * BANDWIDTH
        width = BANDWIDTH if self.bandwidth is None else self.bandwidth
        learned = state[self._name]
        return torch.full((), width, dtype=learned.dtype, device=learned.device)

    def _lowest(self, threshold: Tensor, width: Tensor) -> Tensor:
        # Slightly lower, since rounding in half precision could exclude a part of the box.
        return threshold * (1 - torch.finfo(threshold.dtype).eps) - 0.51 * width


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: Tensor, to_inputs: bool) -> Tensor:
        ctx.save_for_backward(pre, threshold, bandwidth)
        ctx.to_inputs = to_inputs
        return torch.where(pre <= threshold, 0.0, pre)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        pre, threshold, bandwidth = ctx.saved_tensors
        jump = _box(pre, threshold, bandwidth, grad) * threshold * grad
        to_pre = torch.where(pre <= threshold, 0.0, grad)
        return to_pre + jump if ctx.to_inputs else to_pre, _reduce(-jump, threshold), None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: Tensor, to_inputs: bool) -> Tensor:
        ctx.save_for_backward(pre, threshold, bandwidth)
        ctx.to_inputs = to_inputs
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        pre, threshold, bandwidth = ctx.saved_tensors
        box = _box(pre, threshold, bandwidth, grad)
        # Rewards also raise pre-activations. By default, costs move only thresholds, as in the source.
        to_pre = (grad if ctx.to_inputs else grad.clamp_max(0.0)) * box
        return to_pre, _reduce(-box * grad, threshold), None, None


def _box(pre: Tensor, threshold: Tensor, bandwidth: Tensor, grad: Tensor) -> Tensor:
    """Returns the estimated derivative of the step: ``1 / bandwidth`` within the box, else 0."""
    return ((pre - threshold).abs() < bandwidth / 2).to(grad.dtype) / bandwidth.to(grad.dtype)


def _reduce(grad: Tensor, threshold: Tensor) -> Tensor:
    return grad.sum_to_size(threshold.shape).to(threshold.dtype)
