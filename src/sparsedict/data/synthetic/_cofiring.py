"""Rules for which features are active together, given the probability of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsedict import checks
from sparsedict.seeds import generator as keyed_generator

_FACTORS = int.from_bytes(b"corr", "big")
MAX_SHARED = 0.99
"""Largest share of a feature's variance that comes from the common factors."""


class Cofiring(ABC):
    """A joint distribution of active features."""

    @abstractmethod
    def draw(
        self, probabilities: Float[Tensor, " n_features"], n_tokens: int, generator: torch.Generator
    ) -> Bool[Tensor, "n_tokens n_features"]:
        """Returns which features are active on each token.

        Args:
            probabilities: Probability of each feature, in float64.
            n_tokens: Number of tokens.
            generator: Generator of the random numbers.
        """


@dataclass(frozen=True)
class Independent(Cofiring):
    """Features are active independently of each other."""

    def draw(
        self, probabilities: Float[Tensor, " n_features"], n_tokens: int, generator: torch.Generator
    ) -> Bool[Tensor, "n_tokens n_features"]:
        drawn = torch.rand(n_tokens, len(probabilities), generator=generator, device="cpu", dtype=torch.float32)
        return drawn < probabilities.float()


@dataclass(frozen=True)
class FixedCount(Cofiring):
    """Every token has the same number of active features.

    They are drawn one after the other without replacement, each with a probability proportional to its frequency. The
    number is the sum of the probabilities, rounded. Frequent features are therefore active less often than their
    probability says.
    """

    def draw(
        self, probabilities: Float[Tensor, " n_features"], n_tokens: int, generator: torch.Generator
    ) -> Bool[Tensor, "n_tokens n_features"]:
        shape, n_active = (n_tokens, len(probabilities)), round(float(probabilities.sum()))
        # The largest of log(weight) + Gumbel noise is a draw proportional to the weights; likewise the next ones.
        waiting = torch.empty(shape, dtype=torch.float32, device="cpu").exponential_(generator=generator)
        first = waiting.div_(probabilities.float()).topk(n_active, dim=1, largest=False, sorted=False).indices
        return torch.zeros(shape, dtype=torch.bool, device="cpu").scatter_(1, first, True)


@dataclass(frozen=True)
class Correlated(Cofiring):
    r"""Features are active where correlated Gaussian variables exceed a threshold (a Gaussian copula).

    .. math:: z = F e + \sqrt{1 - |F_i|^2}\, \eta_i, \qquad \text{active}_i = [z_i > \Phi^{-1}(1 - p_i)]

    The entries of :math:`F`, ``[n_features, rank]``, are drawn once from a normal distribution of standard deviation
    ``scale``. Each feature has exactly its probability.

    Args:
        rank: Number of common factors.
        scale: Standard deviation of the entries of :math:`F`.
        seed: Seed of :math:`F`.

    Source: Chanin and Garriga-Alonso, "SynthSAEBench: Evaluating Sparse Autoencoders on Scalable Realistic Synthetic
    Data", 2026, arXiv 2602.14687.
    """

    rank: int = 25
    scale: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        checks.set_at_least(self, "rank", 1)
        checks.set_in_range(self, "scale", 0.0)
        checks.set_at_least(self, "seed", 0)

    def factors(self, n_features: int) -> Float[Tensor, "n_features rank"]:
        """Returns the matrix :math:`F`. Rows are scaled down to a squared norm of at most 0.99."""
        own = keyed_generator(self.seed, _FACTORS)
        rows = self.scale * torch.randn(n_features, self.rank, generator=own, device="cpu", dtype=torch.float32)
        norms = rows.square().sum(1, keepdim=True)
        return rows * (MAX_SHARED / norms.clamp_min(MAX_SHARED)).sqrt()

    def draw(
        self, probabilities: Float[Tensor, " n_features"], n_tokens: int, generator: torch.Generator
    ) -> Bool[Tensor, "n_tokens n_features"]:
        factors = self.factors(len(probabilities))
        common = torch.randn(n_tokens, self.rank, generator=generator, device="cpu", dtype=torch.float32)
        own = torch.randn(n_tokens, len(probabilities), generator=generator, device="cpu", dtype=torch.float32)
        thresholds = -torch.special.ndtri(probabilities)
        z = torch.addmm(own.mul_((1 - factors.square().sum(1)).sqrt()), common, factors.T)
        return z > thresholds.float()
