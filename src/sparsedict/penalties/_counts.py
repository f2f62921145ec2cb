"""`L0` and `TargetL0`, penalties on the number of active latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.dictionaries import Dictionary, ForwardPass
from sparsedict.latents import fires
from sparsedict.penalties._penalty import Penalty, set_coefficient, target_variance
from sparsedict.penalties._per_dictionary import PerDictionary

START_SHARE = 0.1
"""Initial cost of ``target`` active latents, as a fraction of the variance."""

LINEAR_SHARE = 0.01
"""Fraction of the variance below which the coefficient is linear in its logarithm, so that its sign can change."""

GAIN, MIN_GAIN, SLOWER_AFTER = 0.1, 0.01, 400
"""Gain of thresholds at the start, its minimum, and the number of steps after which it is halved."""

COST_GAIN = 0.05
"""Gain of the coefficient's logarithm."""

MISS_TOLERANCE = 0.1
"""Relative error of L0 at the end of a run above which there is a warning."""

LOWEST, HIGHEST = -3.0, 5.0
"""Bounds of the coefficient's logarithm, which limit the time to recover."""


@dataclass(frozen=True)
class L0(Penalty):
    """``coefficient * (number of latents that fire)``, mean over tokens, with the activation's gradient estimator.

    It requires an activation that defines a gradient for firing: JumpReLU, or a custom one that overrides
    :meth:`Activation.firing`.

    Args:
        coefficient: Cost of one active latent, in units of the squared error. It is absolute: for data multiplied by
            ``s``, the same balance needs ``s ** 2`` times the coefficient. `TargetL0` without a coefficient doesn't
            depend on the scale of the data.

    Source: Rajamanoharan et al., "Jumping Ahead", 2024.
    """

    coefficient: float

    def __post_init__(self) -> None:
        set_coefficient(self)

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        return _count(out, out.pre_activations) * self.coefficient

    def check(self, dictionary: Dictionary) -> None:
        require_firing_gradient(self, dictionary)


@dataclass(frozen=True)
class TargetL0(Penalty):
    """Keeps the average number of latents that fire on a token at ``target``, by a controller with two loops.

    Let ``e = min(l0 / target - 1, 1)`` be the relative error. After each optimiser step:

    - The thresholds of all latents are multiplied by ``exp(g * e)``, where ``g`` falls from 0.1 to 0.01 during a run.
      This controls L0, even at the end of a run where the learning rate is zero.
    - ``u`` increases by ``0.05 * e``. The penalty is ``c * l0`` with ``c = 0.01 * sinh(u) * v / target``, where ``v``
      is the squared distance of targets from their mean. Its gradient raises the threshold of a latent that is worth
      less than its cost. If too few latents fire for a long time, ``c`` becomes negative, and with JumpReLU the
      gradient also raises pre-activations.

    Initially, ``target`` latents cost a tenth of ``v``.

    With a ``coefficient``, the penalty is ``coefficient * (l0 / target - 1)^2`` instead, and there is no controller. L0
    then settles at some distance from the target, where the penalty balances the squared error.

    ``fit`` issues a warning if the final L0 in evaluation mode differs from the target by more than a tenth, and by
    more than the sampling noise of the tokens.

    Args:
        target: Desired average number of latents that fire on a token.
        coefficient: Weight of the squared difference, in units of the squared error; ``None`` for the controller, which
            doesn't depend on the scale of the data. It is absolute: for data multiplied by ``s``, the same balance
            needs ``s ** 2`` times the coefficient.

    Source: the count and its gradient are those of Rajamanoharan et al., "Jumping Ahead", 2024. The multiplicative
    update of a multiplier is that of Platt and Barr, "Constrained Differential Optimization", 1987, in logarithms.
    """

    target: float
    coefficient: float | None = None

    def __post_init__(self) -> None:
        checks.set_in_range(self, "target", 0.0, open_low=True)
        if self.coefficient is not None:
            set_coefficient(self)
        object.__setattr__(self, "_coefficients", PerDictionary(math.asinh(START_SHARE / LINEAR_SHARE)))

    @property
    def _log_coefficients(self) -> PerDictionary:
        return vars(self)["_coefficients"]

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        if self.coefficient is not None:
            # If there are thresholds, only these get a gradient, even below the target, where firing is rewarded.
            count = _count(out, out.pre_activations.detach())
            if not count.requires_grad:
                count = _count(out, out.pre_activations)
            return (out.whole.mean(count) / self.target - 1) ** 2 * self.coefficient
        variance = target_variance(out)
        return _count(out, out.pre_activations) * (
            LINEAR_SHARE * self._log_coefficients.get(out).sinh() * variance / self.target
        )

    @torch.no_grad()
    def after_step_(self, out: ForwardPass) -> None:
        if self.coefficient is not None:
            return
        dictionary = out.dictionary
        # Dividing integers would return the caller's default dtype.
        l0 = out.whole.mean(out.total(fires(out.values.detach()).sum().to(torch.float32)) / out.n_tokens)
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
            else "Omit `coefficient`, so that the controller is used, or raise it."
        )
        return f"The target of TargetL0 was {self.target:g}, but the final L0 is {l0:.1f} in evaluation mode. {remedy}"

    def state_dict(self) -> dict[str, Any]:
        """Returns the logarithms of the coefficients, in the order in which dictionaries are trained."""
        return {"logarithms": self._log_coefficients.values()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the coefficients, in the order in which dictionaries will be trained."""
        self._log_coefficients.restore(state_dict["logarithms"])

    def check(self, dictionary: Dictionary) -> None:
        require_firing_gradient(self, dictionary)
        if self.target > dictionary.n_latents:
            raise ValueError(f"`target` must be at most n_latents={dictionary.n_latents}, got {self.target}.")
        if self.coefficient is not None:
            return
        if type(dictionary.activation).move_thresholds_ is Activation.move_thresholds_:
            raise ValueError(
                f"`activation` must implement `move_thresholds_` for TargetL0, got {dictionary.activation}. Use "
                "JumpReLU(), override `Activation.move_thresholds_`, or pass a `coefficient` to TargetL0."
            )
        if not all(parameter.requires_grad for parameter in dictionary.activation_state.parameters()):
            raise ValueError(
                f"The thresholds of activation={dictionary.activation} must have requires_grad=True for TargetL0, got "
                "False. Enable their gradients, or train without TargetL0."
            )


def _count(out: ForwardPass, pre: Tensor) -> Tensor:
    return out.total(out.activation.firing(pre, out.state).sum()) / out.n_tokens


def require_firing_gradient(penalty: Penalty, dictionary: Dictionary) -> None:
    """Raises ``ValueError`` if the activation defines no gradient for firing."""
    if type(dictionary.activation).firing is Activation.firing:
        raise ValueError(
            f"`activation` must define a gradient for firing (`Activation.firing`) for {type(penalty).__name__}, got "
            f"{dictionary.activation}. Use JumpReLU(), or L1 with this activation."
        )
