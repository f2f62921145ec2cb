"""Measured numbers with their 95 % intervals, over seeds and over the held-out text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

Measured = Mapping[str, Mapping[str, Any]]
"""Quantities by name, as `measured` returns them."""

NORMAL_95 = NormalDist().inv_cdf(0.975)
STUDENT_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t by degrees of freedom, 97.5 %."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        value: Mean over the seeds.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of seeds.
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def from_values(cls, values: Sequence[float | None], sampling: float = 0.0) -> Estimate | None:
        """Makes an estimate of one value per seed; ``None`` if there is no finite value.

        The half-width is ``sqrt((t * sd / sqrt(n))^2 + (1.96 * sampling)^2)``, with Student's t. One value without a
        sampling error has an infinite interval, as has an infinite sampling error.

        Args:
            values: One per seed; missing values are left out.
            sampling: Standard error of their mean that the seeds share, such as that of the held-out text.

        Example:
            >>> Estimate.from_values([1.0, 1.1, 1.2]).told(".2f")
            '1.10 (0.85 to 1.35)'
        """
        known = [value for value in values if value is not None and math.isfinite(value)]
        if not known:
            return None
        n, mean = len(known), fmean(known)
        if n == 1:
            half = NORMAL_95 * sampling if sampling > 0 else math.inf
        else:
            t = STUDENT_95.get(n - 1, NORMAL_95 + 2.5 / (n - 1))
            half = math.hypot(t * stdev(known) / math.sqrt(n), NORMAL_95 * sampling)
        return cls(mean, mean - half, mean + half, n)

    def told(self, form: str = ".3g") -> str:
        """Formats the mean and its interval."""
        if math.isinf(self.low):
            return f"{_formatted(self.value, form)} ({'one seed' if self.n == 1 else 'error unknown'})"
        value, low, high = (_formatted(number, form) for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"

    def brief(self, form: str = ".3g") -> str:
        """Formats the mean and the half-width of its interval, the latter with two digits where digits are counted.

        An interval whose halves differ, as a ratio's may, is given by its ends.
        """
        if math.isinf(self.low):
            return _formatted(self.value, form)
        half = ".2g" if form.endswith("g") else form
        below, above = (_formatted(part, half) for part in (self.value - self.low, self.high - self.value))
        return f"{_formatted(self.value, form)} ± {above}" if below == above else self.told(form)

    def exp(self) -> Estimate:
        """Returns the estimate of what this one is the logarithm of."""
        low = math.exp(self.low) if math.isfinite(self.low) else -math.inf
        return Estimate(math.exp(self.value), low, math.exp(min(self.high, MAX_EXPONENT)), self.n)


MAX_EXPONENT = 700.0
"""Beyond it the exponential overflows."""


def _formatted(number: float, form: str) -> str:
    """Formats a number, without the sign of a zero."""
    text = f"{number:{form}}"
    return text.removeprefix("-") if not any(digit in text for digit in "123456789") and "inf" not in text else text


@dataclass(frozen=True)
class Quantity:
    """A measured number, by its name.

    Attributes:
        key: Name.
    """

    key: str

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the measured numbers that this quantity is made of."""
        return (self.key,)

    def estimate(self, measured: Measured) -> Estimate | None:
        """Returns the estimate; ``None`` if it wasn't measured."""
        part = measured.get(self.key)
        return None if part is None else Estimate.from_values(part["values"], *_sampling(measured, self.keys))


@dataclass(frozen=True)
class Difference(Quantity):
    """``key - less``, seed by seed.

    Attributes:
        less: Name of the number that is subtracted.
    """

    less: str

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key, self.less)

    def estimate(self, measured: Measured) -> Estimate | None:
        pairs = _pairs(measured, self.keys)
        if pairs is None:
            return None
        sampling = math.hypot(*_sampling(measured, self.keys))
        return Estimate.from_values([a - b for a, b in pairs], sampling)


@dataclass(frozen=True)
class Ratio(Quantity):
    """``key / over``, seed by seed; seeds whose denominator isn't above zero are left out.

    Ratios above zero are averaged by their logarithms, so that a ratio and its inverse say the same and no interval
    goes below zero.

    Attributes:
        over: Name of the denominator.
    """

    over: str

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key, self.over)

    def estimate(self, measured: Measured) -> Estimate | None:
        pairs = [(a, b) for a, b in _pairs(measured, self.keys) or () if b > 0]
        if not pairs:
            return None
        ratios = [a / b for a, b in pairs]
        means = [fmean(values) for values in zip(*pairs, strict=True)]
        errors = _sampling(measured, self.keys)
        if min(ratios) > 0:
            relative = math.hypot(errors[0] / means[0], errors[1] / means[1])
            logarithm = Estimate.from_values([math.log(ratio) for ratio in ratios], relative)
            return None if logarithm is None else logarithm.exp()
        sampling = math.hypot(errors[0] / means[1], errors[1] * means[0] / means[1] ** 2)
        sampling = math.inf if math.isnan(sampling) else sampling  # of an unknown error times zero
        return Estimate.from_values(ratios, sampling)


def _sampling(measured: Measured, keys: Sequence[str]) -> list[float]:
    """Returns sampling errors; one that isn't known, which JSON holds as null, may be of any size."""
    errors = (measured[key]["sampling"] for key in keys)
    return [math.inf if error is None or math.isnan(error) else error for error in errors]


def measured(
    by_seed: Sequence[Mapping[str, float | None]], sampling: Mapping[str, float] | None = None
) -> dict[str, dict[str, Any]]:
    """Returns quantities by name as JSON holds them: one value per seed, and the sampling error that seeds share.

    Args:
        by_seed: The numbers of each seed by name; a seed without a name has no value of it.
        sampling: Standard errors of the means, by name; zero by default.
    """
    errors = sampling or {}
    names = dict.fromkeys(name for part in by_seed for name in part)
    return {
        name: {"values": [part[name] for part in by_seed if name in part], "sampling": errors.get(name, 0.0)}
        for name in names
    }


def told(measured: Measured, quantity: Quantity | str, form: str = ".3g") -> str:
    """Formats a quantity as mean ± half-width; ``"-"`` if it wasn't measured."""
    known = (Quantity(quantity) if isinstance(quantity, str) else quantity).estimate(measured)
    return "-" if known is None else known.brief(form)


def mean_of(measured: Measured, key: str) -> float | None:
    """Returns the mean over seeds; ``None`` if there is none."""
    known = Quantity(key).estimate(measured)
    return None if known is None else known.value


def _pairs(measured: Measured, keys: Sequence[str]) -> list[tuple[float, float]] | None:
    parts = [measured.get(key) for key in keys]
    if any(part is None for part in parts):
        return None
    a, b = (part["values"] for part in parts if part is not None)
    return [(x, y) for x, y in zip(a, b, strict=False) if x is not None and y is not None]
