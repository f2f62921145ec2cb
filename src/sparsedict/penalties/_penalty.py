"""The base classes of penalties."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.dictionaries import Dictionary, ForwardPass

Coefficient = float | Tensor
"""One number, or one per latent, ``[n_latents]``."""


class Penalty(ABC):
    """A term of the loss that depends on the latents: summed over latents, mean over tokens."""

    @abstractmethod
    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        """Returns the penalty of one step, differentiable."""

    def after_step_(self, out: ForwardPass) -> None:
        """Updates ``out.dictionary`` in place after the optimiser's step. By default it does nothing.

        It is called with gradients disabled.

        Args:
            out: The forward pass of the step. Its values are those before the step.
        """

    def missed(self, l0: float, n_tokens: int) -> str | None:
        """Returns a warning if a finished run missed the penalty's target; ``None`` (the default) if not.

        ``fit`` issues the warning.

        Args:
            l0: Mean number of latents that fire on a token of the last batch, in evaluation mode.
            n_tokens: Number of tokens of this measurement.
        """
        return None

    def check(self, dictionary: Dictionary) -> None:
        """Raises ``ValueError`` if the penalty is incompatible with the dictionary. By default it does nothing."""


def target_variance(out: ForwardPass) -> Float[Tensor, ""]:
    """Returns the mean squared distance of the targets from their mean, without gradient. It is positive."""
    targets = out.targets.detach()
    variance = out.whole.mean((targets - out.whole.mean(targets.mean(0))).square().sum() / out.n_tokens)
    return variance.clamp_min(torch.finfo(variance.dtype).tiny)


class LatentPenalty(Penalty):
    """A penalty that is the sum of one cost per latent. A subclass implements :meth:`cost`.

    Args:
        coefficient: Weight of the cost: a number, or one per latent ``[n_latents]``.
    """

    coefficient: Coefficient

    @abstractmethod
    def cost(self, values: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
        """Returns the cost of each latent, which must be zero where the latent is zero."""

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        return self.for_values(out, out.values)

    def for_values(self, out: ForwardPass, values: Float[Tensor, "*entries"]) -> Float[Tensor, ""]:
        """Returns the penalty for other values than those of the latents."""
        cost = self.cost(values)
        if isinstance(self.coefficient, Tensor):
            return out.total((out.aligned(self.coefficient.to(cost)) * cost).sum()) / out.n_tokens
        return out.total(cost.sum()) * (self.coefficient / out.n_tokens)

    def check(self, dictionary: Dictionary) -> None:
        self.check_cost(dictionary)
        if not dictionary.decoder_norm.bounded:
            name = type(self).__name__
            checks.warn(
                f"{name} has no lasting effect with decoder_norm={dictionary.decoder_norm}: latents can shrink while "
                f"decoder rows grow. Use UnitNorm() or MaxNorm(1.0), or NormWeighted({name}(...))."
            )

    def check_cost(self, dictionary: Dictionary) -> None:
        """Raises ``ValueError`` if the cost is undefined for the dictionary's latents."""
        if isinstance(self.coefficient, Tensor):
            checks.latent_vector("coefficient", self.coefficient, dictionary.n_latents)


def set_coefficient(penalty: Any) -> None:
    """Checks a penalty's coefficient, and converts it to a plain number or a detached tensor ``[n_latents]``."""
    value = penalty.coefficient
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        value = (value if isinstance(value, Tensor) else checks.from_numpy(value)).detach()
        if not bool((torch.isfinite(value) & (value >= 0)).all()):
            raise ValueError(
                "`coefficient` must be finite and not negative for every latent, got negative, NaN or infinite entries."
            )
    else:
        value = checks.in_range("coefficient", value, 0.0)
    object.__setattr__(penalty, "coefficient", value)
