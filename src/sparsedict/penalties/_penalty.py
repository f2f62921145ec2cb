"""The interface of penalties: what presses latents to be sparse while training."""

from __future__ import annotations

import warnings
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
        """Changes ``out.dictionary`` in place, after the optimiser's step (default: nothing to change).

        It is called without gradients.

        Args:
            out: The forward pass of the step. Its values are those before the step.
        """

    def missed(self, l0: float, n_tokens: int) -> str | None:
        """Returns in one sentence what a finished run missed, with the figures; ``None`` (the default) if nothing.

        ``fit`` warns of it.

        Args:
            l0: Latents that fire in evaluation mode, mean over tokens of the last batch.
            n_tokens: Tokens on which it was measured.
        """
        return None

    def check(self, dictionary: Dictionary) -> None:
        """Raises ``ValueError``, naming both and the remedy, where the penalty can't serve the dictionary."""


class LatentPenalty(Penalty):
    """A penalty that is a sum of one cost per latent. A subclass gives the cost, :meth:`cost`.

    Args:
        coefficient: Weight of the cost: a number, or one per latent ``[n_latents]``.
    """

    coefficient: Coefficient

    @abstractmethod
    def cost(self, values: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
        """Returns the cost of each latent; it must be zero where a latent is zero."""

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        return self.for_values(out, out.values)

    def for_values(self, out: ForwardPass, values: Float[Tensor, "*entries"]) -> Float[Tensor, ""]:
        """Returns the penalty of given values instead of the latents' own."""
        cost = self.cost(values)
        if isinstance(self.coefficient, Tensor):
            return (out.aligned(self.coefficient.to(cost)) * cost).sum() / out.n_tokens
        return cost.sum() * (self.coefficient / out.n_tokens)

    def check(self, dictionary: Dictionary) -> None:
        self.check_cost(dictionary)
        if not dictionary.decoder_norm.bounded:
            name = type(self).__name__
            warnings.warn(
                f"{name} with decoder_norm={dictionary.decoder_norm} can be shrunk away: latents get smaller while "
                f"decoder rows grow. Use UnitNorm() or MaxNorm(1.0), or NormWeighted({name}(...)).",
                stacklevel=2,
            )

    def check_cost(self, dictionary: Dictionary) -> None:
        """Raises ``ValueError`` where the cost can't be computed for the dictionary's latents."""
        if isinstance(self.coefficient, Tensor):
            checks.latent_vector("coefficient", self.coefficient, dictionary.n_latents)


def set_coefficient(penalty: Any) -> None:
    """Checks a penalty's coefficient, and makes it a plain number or a tensor ``[n_latents]`` without a graph."""
    value = penalty.coefficient
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        value = (value if isinstance(value, Tensor) else torch.from_numpy(value)).detach()
        if not bool((torch.isfinite(value) & (value >= 0)).all()):
            raise ValueError("`coefficient` must be finite and not negative for every latent.")
    else:
        value = checks.in_range("coefficient", value, 0.0)
    object.__setattr__(penalty, "coefficient", value)
