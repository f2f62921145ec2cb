"""Estimates of measured numbers with 95 % intervals over seeds and held-out text."""

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
        """Returns the estimate from one value per seed, or ``None`` if there is no finite value.

        The half-width is ``sqrt((t * sd / sqrt(n))^2 + (1.96 * sampling)^2)``, with Student's t. The interval of a
        single value without a sampling error, or with an infinite sampling error, is infinite.

        Args:
            values: One value per seed. Missing values are ignored.
            sampling: Standard error that all seeds have in common, such as that of the held-out text.

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
        """Formats the mean and the half-width of its interval, with two significant digits for forms ending in ``g``.

        An asymmetric interval, for example of a ratio, is given by its ends.
        """
        if math.isinf(self.low):
            return _formatted(self.value, form)
        half = ".2g" if form.endswith("g") else form
        below, above = (_formatted(part, half) for part in (self.value - self.low, self.high - self.value))
        return f"{_formatted(self.value, form)} ± {above}" if below == above else self.told(form)

    def exp(self) -> Estimate:
        """Returns the exponential of this estimate."""
        low = math.exp(self.low) if math.isfinite(self.low) else -math.inf
        return Estimate(math.exp(self.value), low, math.exp(min(self.high, MAX_EXPONENT)), self.n)


MAX_EXPONENT = 700.0
"""Largest exponent without overflow."""


def _formatted(number: float, form: str) -> str:
    """Formats a number, without the sign of a zero."""
    text = f"{number:{form}}"
    return text.removeprefix("-") if not any(digit in text for digit in "123456789") and "inf" not in text else text


@dataclass(frozen=True)
class Quantity:
    """A measured number.

    Attributes:
        key: Name of the number.
    """

    key: str

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the measured numbers that this quantity depends on."""
        return (self.key,)

    def estimate(self, measured: Measured) -> Estimate | None:
        """Returns the estimate, or ``None`` if the number wasn't measured."""
        part = measured.get(self.key)
        return None if part is None else Estimate.from_values(part["values"], *_sampling(measured, self.keys))


@dataclass(frozen=True)
class Difference(Quantity):
    """The difference ``key - less`` for each seed.

    Attributes:
        less: Name of the subtracted number.
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
    """The ratio ``key / over`` for each seed. Seeds without a positive denominator are left out.

    Positive ratios are averaged by their logarithms, so that a ratio and its inverse are consistent and intervals are
    positive.

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
    """Returns the sampling errors. An unknown error, which is null in JSON, counts as infinite."""
    errors = (measured[key]["sampling"] for key in keys)
    return [math.inf if error is None or math.isnan(error) else error for error in errors]


def measured(
    by_seed: Sequence[Mapping[str, float | None]], sampling: Mapping[str, float] | None = None
) -> dict[str, dict[str, Any]]:
    """Returns numbers by name as JSON values: one value per seed, and the common sampling error.

    Args:
        by_seed: The numbers of each seed by name. Numbers may be missing for some seeds.
        sampling: Standard errors of the means by name. Zero by default.
    """
    errors = sampling or {}
    names = dict.fromkeys(name for part in by_seed for name in part)
    return {
        name: {"values": [part[name] for part in by_seed if name in part], "sampling": errors.get(name, 0.0)}
        for name in names
    }


def told(measured: Measured, quantity: Quantity | str, form: str = ".3g") -> str:
    """Formats a quantity as mean ± half-width, or ``"-"`` if it wasn't measured."""
    known = (Quantity(quantity) if isinstance(quantity, str) else quantity).estimate(measured)
    return "-" if known is None else known.brief(form)


def mean_of(measured: Measured, key: str) -> float | None:
    """Returns the mean over seeds, or ``None`` if the number wasn't measured."""
    known = Quantity(key).estimate(measured)
    return None if known is None else known.value


def _pairs(measured: Measured, keys: Sequence[str]) -> list[tuple[float, float]] | None:
    parts = [measured.get(key) for key in keys]
    if any(part is None for part in parts):
        return None
    a, b = (part["values"] for part in parts if part is not None)
    return [(x, y) for x, y in zip(a, b, strict=False) if x is not None and y is not None]
