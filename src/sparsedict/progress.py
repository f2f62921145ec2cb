"""Progress of long tasks: a bar on a terminal or in a notebook, one line per minute in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from tqdm.auto import tqdm

SECONDS_PER_LINE = 60.0


@runtime_checkable
class Progress(Protocol):
    """Interface through which a task reports its progress."""

    def update(self, n: int) -> object:
        """Adds ``n`` finished units."""
        ...

    def set_postfix_str(self, s: str) -> object:
        """Sets the text that is shown next to the progress."""
        ...


@contextmanager
def progress_bar(
    what: str, *, total: int, initial: int = 0, unit: str = "tok", shown: bool = True
) -> Iterator[Progress]:
    """Returns a context that shows the progress of a task on standard error.

    Args:
        what: Name of the task, in a word or two.
        total: Total number of units.
        initial: Number of units finished earlier.
        unit: Name of the units.
        shown: Whether to show anything.
    """
    if not shown or is_live():
        with tqdm(total=total, initial=initial, unit=unit, unit_scale=True, disable=not shown, desc=what) as bar:
            yield bar
        return
    lines = Lines(what, total, initial, unit)
    try:
        yield lines
    finally:
        lines.close()


def is_live() -> bool:
    """Returns whether the standard error stream can rewrite a line, like that of a terminal or a notebook."""
    return _in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def _in_notebook() -> bool:
    """Returns whether the code runs in a Jupyter kernel. An imported ``ipykernel`` alone doesn't mean that."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class Lines:
    """Writes one line per minute, and one at the end.

    Args:
        what: See `progress_bar`.
        total: See `progress_bar`.
        initial: See `progress_bar`.
        unit: See `progress_bar`.
        every: Seconds between lines.
    """

    def __init__(self, what: str, total: int, initial: int, unit: str, every: float = SECONDS_PER_LINE) -> None:
        self._what = what
        self._total = total
        self._initial = self._done = initial
        self.shown: int = initial
        self._unit = unit
        self._every = every
        self._text = ""
        self._start = self._last = time.monotonic()

    def update(self, n: int) -> None:
        """Adds ``n`` finished units."""
        self._done += n
        if time.monotonic() - self._last >= self._every:
            self._write()

    def set_postfix_str(self, s: str) -> None:
        """Sets the text at the end of the lines."""
        self._text = s

    def close(self) -> None:
        """Writes the last line, if there was progress since the previous one."""
        if self._done > self.shown:
            self._write()

    def _write(self) -> None:
        self._last = time.monotonic()
        self.shown = self._done
        rate = (self._done - self._initial) / max(self._last - self._start, 1e-9)
        # A task ends with a whole unit, such as a sequence, which may exceed the total.
        total = max(self._total, self._done)
        left = (total - self._done) / rate if rate else 0.0
        parts = [
            f"{self._what}: {self._done:,} of {total:,} {self._unit} ({self._done / max(total, 1):.0%})",
            f"{rate:,.0f} {self._unit}/s",
            tqdm.format_interval(left) + " left",
        ]
        if self._text:
            parts.append(self._text)
        if sys.stderr is not None:
            print(", ".join(parts), file=sys.stderr, flush=True)


class Phases:
    """Prints the phases of a long run to standard error, and measures their durations.

    Args:
        shown: Whether to print the names.
        prefix: Text before each name.

    Attributes:
        seconds: Duration of each phase, in order.
        shown: Whether names are printed.

    Example:
        >>> phases = Phases(shown=False)
        >>> with phases("training", "training on 1,000 tokens"):
        ...     pass
        >>> list(phases.seconds)
        ['training']
    """

    def __init__(self, shown: bool, prefix: str = "") -> None:
        self.seconds: dict[str, float] = {}
        self.shown = shown
        self._prefix = prefix

    def within(self, prefix: str) -> Phases:
        """Returns a new `Phases` with another prefix and separate durations."""
        return Phases(self.shown, prefix)

    @contextmanager
    def __call__(self, name: str, what: str) -> Iterator[None]:
        """Runs the block as the phase ``name``.

        Args:
            name: Key of the phase in ``seconds``. Durations of one name add up.
            what: The text to print.
        """
        if self.shown:
            print(f"{self._prefix}{what} ...", file=sys.stderr, flush=True)
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
