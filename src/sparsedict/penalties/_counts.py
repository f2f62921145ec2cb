from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.dictionaries import Dictionary, ForwardPass
from sparsedict.latents import fires
from sparsedict.penalties._penalty import Penalty, set_coefficient

START_SHARE = 0.1
"""Share of the variance that ``target`` active latents cost at the start."""

LINEAR_SHARE = 0.01
"""Share of the variance below which the coefficient follows linearly, so that it may change its sign."""

GAIN, MIN_GAIN, SLOWER_AFTER = 0.1, 0.01, 400
"""Share of the error by which thresholds move at the start, the least one, and steps after which it is half."""

COST_GAIN = 0.05
"""Share of the error by which the coefficient's logarithm moves."""

MISS_TOLERANCE = 0.1
"""Share of the target by which L0 may miss it at the end of a run without a warning."""

LOWEST, HIGHEST = -3.0, 5.0
"""Bounds of the coefficient's logarithm, so that it finds its way back soon."""


@dataclass(frozen=True)
class L0(Penalty):
    """``coefficient * (number of latents that fire)``, mean over tokens, by the activation's own estimator.

    Only an activation that gives the step a gradient can be trained by it: JumpReLU, or one of your own that
    overrides :meth:`Activation.firing`.

    Args:
        coefficient: Cost of one active latent, in units of the squared error.

    Source: Rajamanoharan et al., "Jumping Ahead", 2024.
    """

    coefficient: float

    def __post_init__(self) -> None:
        set_coefficient(self)

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        return _count(out, out.pre_activations) * self.coefficient

    def check(self, dictionary: Dictionary) -> None:
        _require_firing_gradient(self, dictionary)


@dataclass(frozen=True)
class TargetL0(Penalty):
    """Holds the number of latents that fire on a token at ``target``, on average, by a controller with two loops.

    After each optimiser step, with the relative error ``e = min(l0 / target - 1, 1)``:

    - the thresholds of all latents are multiplied by ``exp(g * e)``, where ``g`` falls from 0.1 to 0.01 in the course
      of a run. This holds L0, also at the end where the learning rate is zero;
    - ``u`` grows by ``0.05 * e``, in the penalty ``c * l0`` with ``c = 0.01 * sinh(u) * v / target``, where ``v`` is
      the squared distance of targets from their mean. By its gradient a threshold rises where a latent is worth less
      than it costs. Where too few latents fire for long, ``c`` becomes negative, and with JumpReLU the gradient raises
      pre-activations too.

    At the start ``target`` latents cost a tenth of ``v``.

    With a ``coefficient`` of one's own it is ``coefficient * (l0 / target - 1)^2`` instead, and nothing is controlled:
    that balances the squared error at some distance from the target.

    ``fit`` warns where L0 in evaluation mode ends more than a tenth from the target, and more than the noise of the
    tokens on which it is measured.

    Args:
        target: Latents that should fire on a token, on average.
        coefficient: Weight of the squared difference, in units of the squared error; ``None`` for the controller.

    Source: the count and its gradient are those of Rajamanoharan et al., "Jumping Ahead", 2024. The multiplicative
    update of a multiplier is that of Platt and Barr, "Constrained Differential Optimization", 1987, in logarithms.
    """

    target: float
    coefficient: float | None = None

    def __post_init__(self) -> None:
        checks.set_in_range(self, "target", 0.0, open_low=True)
        if self.coefficient is not None:
            set_coefficient(self)
        object.__setattr__(self, "_coefficients", _LogCoefficients())

    @property
    def _log_coefficients(self) -> _LogCoefficients:
        return vars(self)["_coefficients"]

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        if self.coefficient is not None:
            # It moves thresholds alone where there are any, also below the target, where it rewards latents that fire.
            count = _count(out, out.pre_activations.detach())
            if not count.requires_grad:
                count = _count(out, out.pre_activations)
            return (count / self.target - 1) ** 2 * self.coefficient
        targets = out.targets.detach()
        variance = (targets - targets.mean(0)).square().sum() / out.n_tokens
        return _count(out, out.pre_activations) * (
            LINEAR_SHARE * self._log_coefficients.get(out).sinh() * variance / self.target
        )

    @torch.no_grad()
    def after_step_(self, out: ForwardPass) -> None:
        if self.coefficient is not None:
            return
        dictionary = out.dictionary
        # Integers divide into the default type, which is the caller's.
        l0 = fires(out.values.detach()).sum().to(torch.float32) / out.n_tokens
        error = (l0 / self.target - 1).clamp_max(1.0)
        gain = max(MIN_GAIN, GAIN / (1 + out.step / SLOWER_AFTER))
        out.activation.move_thresholds_(dictionary.activation_state.entries(), gain * error)
        self._log_coefficients.get(out).add_(COST_GAIN * error).clamp_(LOWEST, HIGHEST)

    def missed(self, l0: float, n_tokens: int) -> str | None:
        noise = 4 * math.sqrt(max(l0, self.target) / max(n_tokens, 1))
        if abs(l0 - self.target) <= max(MISS_TOLERANCE * self.target, noise):
            return None
        remedy = (
            "Train for more steps, or with a learning rate that decays to the end."
            if self.coefficient is None
            else "Leave `coefficient` out, so that the target is controlled, or raise it."
        )
        return f"TargetL0 asked for {self.target:g}, but L0 is {l0:.1f} in evaluation mode at the end. {remedy}"

    def state_dict(self) -> dict[str, Any]:
        """Returns the logarithms of the coefficients, in the order in which dictionaries are trained."""
        return {"logarithms": self._log_coefficients.values()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from other coefficients, in the order in which dictionaries will be trained."""
        self._log_coefficients.restore(state_dict["logarithms"])

    def check(self, dictionary: Dictionary) -> None:
        _require_firing_gradient(self, dictionary)
        if self.target > dictionary.n_latents:
            raise ValueError(f"`target` must be at most n_latents={dictionary.n_latents}, got {self.target}.")
        if self.coefficient is not None:
            return
        if type(dictionary.activation).move_thresholds_ is Activation.move_thresholds_:
            raise ValueError(
                f"TargetL0 moves thresholds, but activation={dictionary.activation} doesn't say how. Use JumpReLU(), "
                "override `Activation.move_thresholds_`, or give TargetL0 a `coefficient`."
            )
        if not all(parameter.requires_grad for parameter in dictionary.activation_state.parameters()):
            raise ValueError(
                f"TargetL0 moves the thresholds of activation={dictionary.activation}, but they have "
                "requires_grad=False. Let them be trained, or train without TargetL0."
            )


class _LogCoefficients:
    """The logarithms of a penalty's coefficients, of each dictionary that is trained with it: several may share it."""

    def __init__(self) -> None:
        self._logarithms: WeakKeyDictionary[Dictionary, Tensor] = WeakKeyDictionary()
        self._last_step: WeakKeyDictionary[Dictionary, int] = WeakKeyDictionary()
        self._waiting: list[Tensor] = []

    def get(self, out: ForwardPass) -> Tensor:
        """Returns that of a dictionary in training; a new one at the first step of a run."""
        dictionary = out.dictionary
        if out.step == 0:
            self._forget_earlier_runs()
        if dictionary not in self._logarithms:
            # The default device may be another.
            new = torch.full((), math.asinh(START_SHARE / LINEAR_SHARE), device="cpu", dtype=torch.float32)
            start = self._waiting.pop(0) if self._waiting else new
            self._logarithms[dictionary] = start.to(out.targets.device)
        self._last_step[dictionary] = out.step
        return self._logarithms[dictionary]

    def _forget_earlier_runs(self) -> None:
        """Drops dictionaries of earlier runs, which may live on: the state is saved in the order of this run's."""
        self._waiting.clear()
        for other, last_step in list(self._last_step.items()):
            if last_step > 0:
                del self._logarithms[other], self._last_step[other]

    def values(self) -> list[Tensor]:
        """Returns them in the order in which their dictionaries are trained."""
        return list(self._logarithms.values()) or list(self._waiting)

    def restore(self, logarithms: list[Tensor]) -> None:
        """Gives them, in this order, to the dictionaries that are asked for from now on."""
        self._logarithms.clear()
        self._last_step.clear()
        self._waiting[:] = [value.clone() for value in logarithms]


def _count(out: ForwardPass, pre: Tensor) -> Tensor:
    return out.activation.firing(pre, out.state).sum() / out.n_tokens


def _require_firing_gradient(penalty: Penalty, dictionary: Dictionary) -> None:
    if type(dictionary.activation).firing is Activation.firing:
        raise ValueError(
            f"{type(penalty).__name__} needs an activation that gives firing a gradient, but "
            f"activation={dictionary.activation} doesn't. Use JumpReLU(), or L1 with this activation."
        )
