"""`Estimate` and `bootstrap`, confidence intervals by resampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.display import shown

Statistic = Callable[[list[Int[Tensor, "n_samples n"]]], Float[Tensor, " n_samples"]]
"""Returns the statistic of each sample. Each tensor holds indices into one group of observations, in float64."""

MAX_ENTRIES = 2**20
"""Largest number of indices that are drawn at once."""
MIN_DEFINED = 0.5
"""Smallest share of samples with a defined statistic for which there is an interval."""


@dataclass(frozen=True)
class Estimate:
    """A value with a confidence interval.

    Attributes:
        value: The statistic of the observations. NaN if it is undefined.
        low: Lower end of the interval. NaN if there is no interval.
        high: Upper end of the interval. NaN if there is no interval.
        n: Number of observations.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if math.isnan(self.low):
            return shown(self.value, ".3f")
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    statistic: Statistic, sizes: Sequence[int], *, n_samples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Returns a statistic with its bias-corrected and accelerated (BCa) bootstrap interval.

    Samples are drawn within each group. There is no interval if the statistic is undefined, if a group has fewer than
    two observations, or if the statistic is equal in all samples: resampling then gives no information about the
    error. Samples in which the statistic is undefined are left out, if they are fewer than half.

    Args:
        statistic: Function of the indices of samples, one tensor ``[n_samples, n]`` for each group.
        sizes: Number of observations of each group.
        n_samples: Number of samples.
        level: Probability that the interval contains the value of the population.
        seed: Seed of the samples.

    Source: Efron, "Better Bootstrap Confidence Intervals", Journal of the American Statistical Association, 1987.
    """
    n_samples = checks.at_least("n_samples", n_samples, 1)
    level = checks.in_range("level", level, 0, 1, open_low=True)
    n = sum(sizes)
    value = float(statistic([torch.arange(size)[None] for size in sizes])) if min(sizes) else math.nan
    if math.isnan(value) or min(sizes) < 2:
        return Estimate(value, math.nan, math.nan, n)
    samples = _samples(statistic, sizes, n_samples, seed)
    samples = samples[~samples.isnan()]
    if len(samples) < MIN_DEFINED * n_samples or bool((samples == samples[0]).all()):
        return Estimate(value, math.nan, math.nan, n)
    ends = _bca_levels(samples, value, _acceleration(statistic, sizes), level)
    low, high = torch.quantile(samples, torch.tensor(ends, dtype=torch.float64)).tolist()
    return Estimate(value, low, high, n)


def _samples(statistic: Statistic, sizes: Sequence[int], n_samples: int, seed: int) -> Float[Tensor, " n_samples"]:
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, MAX_ENTRIES // sum(sizes))
    parts = []
    for start in range(0, n_samples, at_once):
        n = min(at_once, n_samples - start)
        parts.append(statistic([torch.randint(size, (n, size), generator=generator) for size in sizes]))
    return torch.cat(parts)


def _acceleration(statistic: Statistic, sizes: Sequence[int]) -> float:
    """Returns the acceleration from the statistics without one observation each (the jackknife)."""
    cubes = squares = 0.0
    for group, size in enumerate(sizes):
        others = torch.arange(size - 1).expand(size, -1)
        left = others + (others >= torch.arange(size)[:, None])
        indices = [torch.arange(n).expand(size, -1) for n in sizes]
        indices[group] = left
        values = statistic(indices)
        influence = (size - 1) * (values.nanmean() - values)
        influence = influence[~influence.isnan()]
        cubes += float((influence**3).sum()) / size**3
        squares += float((influence**2).sum()) / size**2
    return cubes / (6 * squares**1.5) if squares > 0 else 0.0


def _bca_levels(samples: Tensor, value: float, acceleration: float, level: float) -> list[float]:
    """Returns the quantiles of the samples at which the interval ends."""
    normal = NormalDist()
    below = float((samples < value).double().mean() + (samples <= value).double().mean()) / 2
    if not 0 < below < 1:
        # All samples lie on one side, so the correction is undefined.
        return [(1 - level) / 2, (1 + level) / 2]
    bias = normal.inv_cdf(below)
    z = [bias + normal.inv_cdf(end) for end in ((1 - level) / 2, (1 + level) / 2)]
    return [normal.cdf(bias + part / (1 - acceleration * part)) for part in z]
