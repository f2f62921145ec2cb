"""Learning-rate schedules, which return the fraction of the peak rate at each step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from sparsedict import checks


class Schedule(ABC):
    """A learning-rate schedule. A subclass implements :meth:`decay`.

    Attributes:
        warm_up: Fraction of the steps of a run over which the rate first rises linearly from zero.
    """

    warm_up: float

    @abstractmethod
    def decay(self, progress: float) -> float:
        """Returns the fraction of the peak rate. ``progress`` is 0 after the warm-up and 1 at the end of the run."""

    def factor(self, step: int, n_steps: int) -> float:
        """Returns the fraction of the peak rate at step ``step`` (from 0) of ``n_steps``."""
        n_warm = round(self.warm_up * n_steps)
        if step < n_warm:
            return (step + 1) / (n_warm + 1)
        return self.decay(min((step - n_warm) / max(n_steps - n_warm, 1), 1.0))


@dataclass(frozen=True)
class Constant(Schedule):
    """The constant peak rate after the warm-up.

    Args:
        warm_up: Fraction of the steps over which the rate first rises linearly from zero.
    """

    warm_up: float = 0.0

    def __post_init__(self) -> None:
        checks.set_in_range(self, "warm_up", 0.0, 1.0)

    def decay(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Cosine(Schedule):
    """A half cosine from the peak rate to ``final`` times the peak rate.

    Args:
        warm_up: Fraction of the steps over which the rate first rises linearly from zero.
        final: Fraction of the peak rate at the end.

    Example:
        >>> [round(Cosine().factor(step, 4), 3) for step in range(4)]
        [1.0, 0.854, 0.5, 0.146]
    """

    warm_up: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        checks.set_in_range(self, "warm_up", 0.0, 1.0)
        checks.set_in_range(self, "final", 0.0, 1.0)

    def decay(self, progress: float) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Linear(Schedule):
    """The peak rate until ``start``, then a linear decay to ``final`` times the peak rate.

    Args:
        warm_up: Fraction of the steps over which the rate first rises linearly from zero.
        start: Fraction of the remaining steps at which the decay begins.
        final: Fraction of the peak rate at the end.
    """

    warm_up: float = 0.0
    start: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        checks.set_in_range(self, "warm_up", 0.0, 1.0)
        checks.set_in_range(self, "start", 0.0, 0.999)
        checks.set_in_range(self, "final", 0.0, 1.0)

    def decay(self, progress: float) -> float:
        return 1 - (1 - self.final) * max(0.0, (progress - self.start) / (1 - self.start))
