"""`Estimate` and bootstrap intervals of single statistics, of means, and of statistics of many latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.display import shown
from sparsedict.seeds import generator
from sparsedict.torch_state import in_own_state

Statistic = Callable[[list[Int[Tensor, "n_samples n"]]], Float[Tensor, " n_samples"]]
"""Returns the statistic of each sample. Each tensor holds indices into one group of observations, in float64."""
WeightedStatistic = Callable[[Float[Tensor, "n_units n_samples"]], Float[Tensor, "n_rows n_samples"]]
"""Returns the statistic of each row for each sample, in which every unit has a weight."""

MAX_ENTRIES = 2**20
"""Largest number of indices that are drawn at once."""
MAX_ROWS = 2**14
"""Largest number of rows whose samples are sorted at once."""
MIN_DEFINED = 0.5
"""Smallest share of samples with a defined statistic for which there is an interval."""
_BOOTSTRAP = int.from_bytes(b"boot", "big")


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
        return f"{shown(self.value, '.3f')} [{shown(self.low, '.3f')}, {shown(self.high, '.3f')}]"


@in_own_state
def bootstrap(
    statistic: Statistic, sizes: Sequence[int], *, n_samples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Returns a statistic with its bias-corrected and accelerated (BCa) bootstrap interval.

    Samples are drawn within each group. There is no interval if the statistic is undefined, if a group has fewer than
    two observations, or if the statistic is equal in all samples: resampling then gives no information about the
    error. Samples in which the statistic is undefined are left out, if they are at most half.

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
    value = float(statistic([torch.arange(size, device="cpu")[None] for size in sizes])) if min(sizes) else math.nan
    if math.isnan(value) or min(sizes) < 2:
        return Estimate(value, math.nan, math.nan, sum(sizes))
    samples = _samples(statistic, sizes, n_samples, seed)
    acceleration = _acceleration(
        [(size - 1) * (left.nanmean() - left) for size, left in zip(sizes, _left_out(statistic, sizes), strict=True)]
    )
    return _estimate(value, samples, acceleration, level, sum(sizes))


@in_own_state
def bootstrap_mean(
    values: Float[Tensor, " n"], *, n_samples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Returns the mean of some values with its BCa bootstrap interval. NaN is left out.

    The result is that of `bootstrap`. The time is linear in the number of values, because the influence of a value on
    the mean is its distance from the mean.

    Args:
        values: The values, such as one per latent.
        n_samples: Number of samples.
        level: Probability that the interval contains the mean of the population.
        seed: Seed of the samples.
    """
    n_samples = checks.at_least("n_samples", n_samples, 1)
    level = checks.in_range("level", level, 0, 1, open_low=True)
    checks.instance("values", values, Tensor, "a tensor of values [n]")
    values = values[~values.isnan()].double().cpu()
    if len(values) < 2:
        return Estimate(float(values.mean()), math.nan, math.nan, len(values))
    samples = _samples(lambda of: values[of[0]].mean(1), (len(values),), n_samples, seed)
    return _estimate(float(values.mean()), samples, _acceleration([values - values.mean()]), level, len(values))


@in_own_state
def row_intervals(
    statistic: WeightedStatistic, n_units: int, *, n_samples: int = 200, level: float = 0.95, seed: int = 0
) -> tuple[Float[Tensor, " n_rows"], Float[Tensor, " n_rows"]]:
    """Returns the ends of the BCa bootstrap intervals of a statistic of many rows, such as latents.

    All rows share the samples. A row has no interval (NaN) in the cases that `bootstrap` names.

    Args:
        statistic: Returns the statistic ``[n_rows, n_samples]`` for weights ``[n_units, n_samples]``. It must only
            depend on the proportions of the weights of a sample.
        n_units: Number of units that are drawn, such as groups of sequences.
        n_samples: Number of samples.
        level: Probability that an interval contains the value of the population.
        seed: Seed of the samples.
    """
    value = statistic(torch.ones(n_units, 1, device="cpu", dtype=torch.float32)).double()
    if n_units < 2:
        unknown = torch.full((len(value),), math.nan, device="cpu", dtype=torch.float32)
        return unknown, unknown.clone()
    samples = statistic(_weights(n_units, n_samples, seed))
    left = statistic(1.0 - torch.eye(n_units, device="cpu", dtype=torch.float32)).double()
    influence = (n_units - 1) * (left.nanmean(1, keepdim=True) - left)
    acceleration = _acceleration([influence])
    rows = torch.arange(len(value), device="cpu").split(MAX_ROWS)
    ends = [_ends(samples[own], value[own, 0], acceleration[own], level) for own in rows]
    return torch.cat([low for low, _ in ends]).float(), torch.cat([high for _, high in ends]).float()


def _estimate(value: float, samples: Tensor, acceleration: Tensor, level: float, n: int) -> Estimate:
    low, high = _ends(
        samples[None], torch.tensor([value], dtype=torch.float64, device="cpu"), acceleration.reshape(1), level
    )
    return Estimate(value, float(low), float(high), n)


def _samples(statistic: Statistic, sizes: Sequence[int], n_samples: int, seed: int) -> Float[Tensor, " n_samples"]:
    random = generator(seed, _BOOTSTRAP)
    at_once = max(1, MAX_ENTRIES // sum(sizes))
    parts = []
    for start in range(0, n_samples, at_once):
        n = min(at_once, n_samples - start)
        parts.append(statistic([torch.randint(size, (n, size), generator=random, device="cpu") for size in sizes]))
    return torch.cat(parts)


def _weights(n: int, n_samples: int, seed: int) -> Float[Tensor, "n n_samples"]:
    """Returns how often each of ``n`` units occurs in each sample of ``n`` units with replacement."""
    drawn = torch.randint(n, (n_samples, n), generator=generator(seed, _BOOTSTRAP), device="cpu")
    counts = torch.zeros(n_samples, n, device="cpu", dtype=torch.float32)
    return counts.scatter_add_(1, drawn, torch.ones_like(counts)).T


def _left_out(statistic: Statistic, sizes: Sequence[int]) -> Iterator[Float[Tensor, " n"]]:
    """Yields for each group the statistics without one of its observations each (the jackknife)."""
    at_once = max(1, MAX_ENTRIES // sum(sizes))
    for group, size in enumerate(sizes):
        parts = []
        for left in torch.arange(size, device="cpu").split(at_once):
            others = torch.arange(size - 1, device="cpu").expand(len(left), -1)
            indices = [torch.arange(n, device="cpu").expand(len(left), -1) for n in sizes]
            indices[group] = others + (others >= left[:, None])
            parts.append(statistic(indices))
        yield torch.cat(parts)


def _acceleration(influences: Sequence[Tensor]) -> Tensor:
    """Returns the acceleration from the influence of each observation, one tensor ``[..., n]`` for each group."""
    cubes = sum((i.nan_to_num(0.0) ** 3).sum(-1) / i.shape[-1] ** 3 for i in influences)
    squares = sum((i.nan_to_num(0.0) ** 2).sum(-1) / i.shape[-1] ** 2 for i in influences)
    assert isinstance(cubes, Tensor)
    assert isinstance(squares, Tensor)
    return torch.where(squares > 0, cubes / (6 * squares**1.5), 0.0)


def _ends(
    samples: Float[Tensor, "n_rows n_samples"],
    value: Float[Tensor, " n_rows"],
    acceleration: Float[Tensor, " n_rows"],
    level: float,
) -> tuple[Float[Tensor, " n_rows"], Float[Tensor, " n_rows"]]:
    """Returns the ends of the BCa interval of each row; NaN if there is none."""
    ordered = samples.double().sort(1).values  # NaN comes last
    n = (~ordered.isnan()).sum(1)
    last = ordered.gather(1, (n - 1).clamp(min=0)[:, None])[:, 0]
    has = (n >= MIN_DEFINED * samples.shape[1]) & (ordered[:, 0] < last) & ~value.isnan()
    below = ((ordered < value[:, None]).sum(1) + (ordered <= value[:, None]).sum(1)) / (2 * n.double())
    bias = torch.special.ndtri(below)
    found = []
    for end in ((1 - level) / 2, (1 + level) / 2):
        z = bias + torch.special.ndtri(torch.tensor(end, dtype=torch.float64, device="cpu"))
        corrected = torch.special.ndtr(bias + z / (1 - acceleration * z))
        # If all samples lie on one side of the value, the correction is undefined.
        share = torch.where((below > 0) & (below < 1), corrected, end)
        place = share.nan_to_num(end) * (n - 1).clamp(min=0)
        left = place.long()
        right = (left + 1).minimum((n - 1).clamp(min=0))
        low, high = (ordered.gather(1, index[:, None])[:, 0] for index in (left, right))
        found.append(torch.where(has, low + (place - left) * (high - low), math.nan))
    return found[0], found[1]
