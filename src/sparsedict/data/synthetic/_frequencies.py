"""Frequencies of features: equal, or by a power law."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks


class Frequencies(ABC):
    """The relative frequencies of features."""

    @abstractmethod
    def weights(self, n_features: int) -> Float[Tensor, " n_features"]:
        """Returns positive numbers proportional to the frequencies, in float64."""

    def probabilities(self, n_features: int, l0: float) -> Float[Tensor, " n_features"]:
        """Returns the probability of each feature, in float64.

        Probabilities are proportional to the weights. Where this exceeds 1, the probability is 1 and the other features
        share the rest, so that the sum is ``l0``.

        Args:
            n_features: Number of features.
            l0: Sum of the probabilities, which is the mean number of active features per token.
        """
        weights = self.weights(n_features)
        certain = torch.zeros(n_features, dtype=torch.bool, device="cpu")
        while True:
            scale = (l0 - int(certain.sum())) / weights[~certain].sum() if not certain.all() else 0.0
            found = torch.where(certain, 1.0, weights * scale)
            above = found > 1
            if not above.any():
                return found
            certain |= above


@dataclass(frozen=True)
class Equal(Frequencies):
    """All features have the same frequency.

    Example:
        >>> Equal().probabilities(4, l0=2.0)
        tensor([0.5000, 0.5000, 0.5000, 0.5000], dtype=torch.float64)
    """

    def weights(self, n_features: int) -> Float[Tensor, " n_features"]:
        return torch.ones(n_features, dtype=torch.float64, device="cpu")


@dataclass(frozen=True)
class PowerLaw(Frequencies):
    r"""The frequency of the feature of rank :math:`r` is proportional to :math:`r^{-a}`.

    Args:
        exponent: The exponent :math:`a`.
        ratio: Ratio of the largest to the smallest frequency. The power law is then shifted by a constant to reach it.
            ``None`` doesn't shift it.

    Example:
        >>> PowerLaw(1.0).probabilities(4, l0=1.0)
        tensor([0.4800, 0.2400, 0.1600, 0.1200], dtype=torch.float64)
    """

    exponent: float
    ratio: float | None = None

    def __post_init__(self) -> None:
        checks.set_in_range(self, "exponent", 0.0)
        if self.ratio is not None:
            checks.set_in_range(self, "ratio", 1.0)

    def weights(self, n_features: int) -> Float[Tensor, " n_features"]:
        weights = torch.arange(1, n_features + 1, dtype=torch.float64, device="cpu") ** -self.exponent
        if self.ratio is None or n_features == 1:
            return weights
        if self.exponent == 0 and self.ratio > 1:
            raise ValueError(f"`ratio` must be 1 or None for an exponent of 0, got {self.ratio}.")
        span = (weights - weights[-1]) / (weights[0] - weights[-1]).clamp_min(torch.finfo(weights.dtype).tiny)
        return 1 + (self.ratio - 1) * span
