"""The parts of a long run, named and timed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Phases:
    """Says what is being done and notes how long it took.

    Args:
        shown: Whether to say it, on the standard error stream.
        suffix: Said after the name of each phase.

    Attributes:
        seconds: By phase, in order.
    """

    def __init__(self, shown: bool, suffix: str = "") -> None:
        self.seconds: dict[str, float] = {}
        self._shown = shown
        self._suffix = suffix

    def within(self, suffix: str) -> Phases:
        """Returns phases of a part of the work, with times of their own."""
        return Phases(self._shown, suffix)

    @contextmanager
    def __call__(self, name: str, what: str) -> Iterator[None]:
        """Runs what follows as the phase ``name``."""
        if self._shown:
            print(f"{what}{self._suffix} ...", file=sys.stderr, flush=True)
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
