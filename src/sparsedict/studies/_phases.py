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
        prefix: Said before the name of each phase.

    Attributes:
        seconds: By phase, in order.
    """

    def __init__(self, shown: bool, prefix: str = "") -> None:
        self.seconds: dict[str, float] = {}
        self._shown = shown
        self._prefix = prefix

    def within(self, prefix: str) -> Phases:
        """Returns phases of a part of the work, with times of their own."""
        return Phases(self._shown, prefix)

    @contextmanager
    def __call__(self, name: str, what: str) -> Iterator[None]:
        """Runs what follows as the phase ``name``."""
        if self._shown:
            print(f"{self._prefix}{what} ...", file=sys.stderr, flush=True)
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
