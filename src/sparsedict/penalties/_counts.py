from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.penalties._penalty import Penalty, set_coefficient

if TYPE_CHECKING:
    from sparsedict.dictionaries import Dictionary
    from sparsedict.forward_pass import ForwardPass


PROPORTIONAL, INTEGRAL = 1.0, 0.02
"""How the coefficient of `TargetL0` follows the logarithm of L0 over the target."""

SMALL = 0.01
"""Share of the variance below which the coefficient of `TargetL0` follows linearly, so that it may change its sign."""

START = 0.1
"""Share of the variance that ``target`` active latents cost at the start."""

MOST_RATIO = 4.0
"""Ratio of L0 and target, or of target and L0, beyond which the coefficient follows no faster."""

MOST_LOGARITHM = 5.0
"""Bound of the logarithm that is summed up, so that it finds its way back soon."""


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

    def __call__(self, passed: ForwardPass) -> Float[Tensor, ""]:
        return _count(passed) * self.coefficient

    def check(self, dictionary: Dictionary) -> None:
        _need_firing_gradient(self, dictionary)


@dataclass(frozen=True)
class TargetL0(Penalty):
    """``c * l0``, with a coefficient ``c`` that is controlled so that ``target`` latents fire on a token, on average.

    With a ``coefficient`` of one's own it is ``coefficient * (l0 / target - 1)^2`` instead, which balances the squared
    error at some distance from the target.

    With ``e = log(l0 / target)``, limited to a ratio of 4, the coefficient of a step is
    ``c = v / target * 0.01 * sinh(u + PROPORTIONAL * e)``, where ``v`` is the squared distance of targets from their
    mean, and ``u`` grows by ``INTEGRAL * e`` from step to step: a controller with integral action. Where fewer latents
    than wanted fire, the coefficient may become negative.

    Args:
        target: Latents that should fire on a token, on average.
        coefficient: Weight of the squared difference, in units of the squared error; ``None`` for a controlled one.

    Source: the count and its gradient are those of Rajamanoharan et al., "Jumping Ahead", 2024. The multiplicative
    update of a multiplier is that of Platt and Barr, "Constrained Differential Optimization", 1987, in logarithms.
    """

    target: float
    coefficient: float | None = None

    def __post_init__(self) -> None:
        checks.set_in_range(self, "target", 0.0, open_low=True)
        if self.coefficient is not None:
            set_coefficient(self)
        # Of each dictionary that is trained with it, for several may share one penalty.
        object.__setattr__(self, "_logarithms", WeakKeyDictionary())
        object.__setattr__(self, "_waiting", [])

    def __call__(self, passed: ForwardPass) -> Float[Tensor, ""]:
        count = _count(passed)
        if self.coefficient is not None:
            return (count / self.target - 1) ** 2 * self.coefficient
        targets = passed.targets.detach()
        variance = (targets - targets.mean(0)).square().sum() / passed.n_tokens
        logarithm = self._logarithm_of(passed)
        with torch.no_grad():
            error = (count / self.target).clamp(1 / MOST_RATIO, MOST_RATIO).log().to(logarithm)
            coefficient = (variance / self.target) * (SMALL * (logarithm + PROPORTIONAL * error).sinh())
            if passed.dictionary.training:
                logarithm.add_(INTEGRAL * error).clamp_(-MOST_LOGARITHM, MOST_LOGARITHM)
        return count * coefficient

    def _logarithm_of(self, passed: ForwardPass) -> Tensor:
        known: WeakKeyDictionary[Dictionary, Tensor] = vars(self)["_logarithms"]
        if passed.dictionary not in known:
            waiting: list[Tensor] = vars(self)["_waiting"]
            # The default device may be another.
            new = torch.full((), math.asinh(START / SMALL), device="cpu", dtype=torch.float32)
            start = waiting.pop(0) if waiting else new
            known[passed.dictionary] = start.to(passed.targets.device)
        return known[passed.dictionary]

    def state_dict(self) -> dict[str, Any]:
        """Returns the logarithms of the coefficients, in the order in which dictionaries were trained."""
        return {"logarithms": list(vars(self)["_logarithms"].values()) or list(vars(self)["_waiting"])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from other coefficients, in the order in which dictionaries will be trained."""
        vars(self)["_logarithms"].clear()
        vars(self)["_waiting"][:] = [value.clone() for value in state_dict["logarithms"]]

    def check(self, dictionary: Dictionary) -> None:
        _need_firing_gradient(self, dictionary)
        if self.target > dictionary.n_latents:
            raise ValueError(f"`target` must be at most n_latents={dictionary.n_latents}, got {self.target}.")


def _count(passed: ForwardPass) -> Tensor:
    return passed.activation.firing(passed.pre_activations, passed.state).sum() / passed.n_tokens


def _need_firing_gradient(penalty: Penalty, dictionary: Dictionary) -> None:
    if type(dictionary.activation).firing is Activation.firing:
        raise ValueError(
            f"{type(penalty).__name__} needs an activation that gives firing a gradient, but "
            f"activation={dictionary.activation} doesn't. Use JumpReLU(), or L1 with this activation."
        )
