"""Magnitudes of active features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.seeds import generator as keyed_generator

_SPREADS = int.from_bytes(b"spread", "big")


class Magnitudes(ABC):
    """A distribution of the strength of an active feature."""

    @abstractmethod
    def means(self, n_features: int) -> Float[Tensor, " n_features"]:
        """Returns the mean strength of each feature where it is active."""

    @abstractmethod
    def draw(
        self, features: Int[Tensor, " n_active"], n_features: int, generator: torch.Generator
    ) -> Float[Tensor, " n_active"]:
        """Returns a strength for each active entry, in float32.

        Args:
            features: Feature of each entry.
            n_features: Number of features.
            generator: Generator of the random numbers.
        """


@dataclass(frozen=True)
class Uniform(Magnitudes):
    """Strengths are uniform in ``[low, high)``.

    Args:
        low: Smallest strength, positive.
        high: Largest strength.
    """

    low: float = 0.5
    high: float = 1.5

    def __post_init__(self) -> None:
        checks.set_in_range(self, "low", 0.0, open_low=True)
        checks.set_in_range(self, "high", self.low)

    def means(self, n_features: int) -> Float[Tensor, " n_features"]:
        return torch.full((n_features,), (self.low + self.high) / 2, dtype=torch.float32, device="cpu")

    def draw(
        self, features: Int[Tensor, " n_active"], n_features: int, generator: torch.Generator
    ) -> Float[Tensor, " n_active"]:
        drawn = torch.rand(len(features), generator=generator, device="cpu", dtype=torch.float32)
        return drawn.mul_(self.high - self.low).add_(self.low)


@dataclass(frozen=True)
class Normal(Magnitudes):
    r"""Strengths are :math:`\max(0, \mu_i + \sigma_i \eta)` with a mean and a standard deviation for each feature.

    The mean :math:`\mu_i` falls or rises linearly from the first to the last feature. The standard deviation is
    :math:`\sigma_i = |N(\texttt{std}, \texttt{std\_spread}^2)|`, drawn once for each feature. An entry whose strength
    is 0 counts as not active.

    Args:
        first: Mean of the first feature, which is the most frequent one.
        last: Mean of the last feature; ``first`` by default.
        std: Mean of the standard deviations before the absolute value.
        std_spread: Standard deviation of the standard deviations.
        seed: Seed of the standard deviations.

    Source: Chanin and Garriga-Alonso, "SynthSAEBench: Evaluating Sparse Autoencoders on Scalable Realistic Synthetic
    Data", 2026, arXiv 2602.14687.
    """

    first: float = 1.0
    last: float | None = None
    std: float = 0.1
    std_spread: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks.set_in_range(self, "first", 0.0, open_low=True)
        if self.last is not None:
            checks.set_in_range(self, "last", 0.0, open_low=True)
        checks.set_in_range(self, "std", 0.0)
        checks.set_in_range(self, "std_spread", 0.0)
        checks.set_at_least(self, "seed", 0)

    def means(self, n_features: int) -> Float[Tensor, " n_features"]:
        last = self.first if self.last is None else self.last
        return torch.linspace(self.first, last, n_features, dtype=torch.float32, device="cpu")

    def stds(self, n_features: int) -> Float[Tensor, " n_features"]:
        """Returns the standard deviation of each feature."""
        own = keyed_generator(self.seed, _SPREADS)
        return (self.std + self.std_spread * torch.randn(n_features, generator=own, device="cpu")).float().abs()

    def draw(
        self, features: Int[Tensor, " n_active"], n_features: int, generator: torch.Generator
    ) -> Float[Tensor, " n_active"]:
        drawn = torch.randn(len(features), generator=generator, device="cpu", dtype=torch.float32)
        return drawn.mul_(self.stds(n_features)[features]).add_(self.means(n_features)[features]).clamp_min_(0)
