"""What a study is: a claim, how it is measured, its numbers and its figures."""

from __future__ import annotations

import json
import math
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sparsedict import checks
from sparsedict.studies._bench import Bench
from sparsedict.studies._table import aligned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Verdict = Literal["seen", "partly seen", "not seen", "answered", "not measured"]
"""Whether what the report says was seen; ``"answered"`` where it asks rather than says."""
Numbers = dict[str, Any]
"""What JSON can hold: everything that a study's prose and figures are made of."""


WIDTH = 100
"""Characters to a line of text."""


def verdict_of(parts: Collection[bool]) -> Verdict:
    """Returns the verdict on a claim whose parts were seen or not."""
    return "seen" if all(parts) else "partly seen" if any(parts) else "not seen"


@dataclass(frozen=True)
class Compared:
    """One number beside the report's.

    Attributes:
        what: What is measured.
        report: What the report says of it.
        here: What was measured.
    """

    what: str
    report: str
    here: str


@dataclass(frozen=True)
class Drawing:
    """A figure yet to be drawn.

    Attributes:
        draw: Draws it and returns its Axes.
        caption: What it shows.
    """

    draw: Callable[[], Axes]
    caption: str


@dataclass(frozen=True)
class Finding:
    """What a study found, in words, numbers and figures.

    Attributes:
        verdict: Whether what the report says was seen.
        summary: What was found, in a few sentences.
        rows: Numbers beside the report's.
        drawings: Figures by file name.
        notes: How it was measured, and what to beware of.
        files: Pages of its own by name, each as a function that writes it to a path.
    """

    verdict: Verdict
    summary: str
    rows: tuple[Compared, ...] = ()
    drawings: Mapping[str, Drawing] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)

    def draw(self, name: str) -> Axes:
        """Draws one of the figures.

        Raises:
            ValueError: If there is none of that name.
        """
        return self.drawings[checks.one_of("name", name, self.drawings)].draw()

    def __str__(self) -> str:
        cells = {row.what: {"the report": row.report, "here": row.here} for row in self.rows}
        table = [aligned(cells, ("the report", "here"))] if cells else []
        return "\n".join([textwrap.fill(f"{self.verdict}: {self.summary}", WIDTH), *table])


class Study(ABC):
    """One result of the report, or one of its questions: a new study is one file with a subclass.

    A subclass names what it is about and implements :meth:`measure`, which does the work and returns numbers alone, and
    :meth:`found`, which makes words and figures of these numbers and of nothing else. So a page can be made again
    from the numbers of an earlier run, and both always agree.

    Attributes:
        name: Of its files.
        title: Its heading.
        shows: Which part of the report it is about.
        claim: What the report says there, or asks.
        given: File of a replication's folder that people may add; its content goes among the numbers as ``"given"``.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    shows: ClassVar[str]
    claim: ClassVar[str]
    given: ClassVar[str | None] = None

    @abstractmethod
    def measure(self, bench: Bench) -> Numbers:
        """Trains what is missing, measures, and returns the numbers."""

    @abstractmethod
    def found(self, numbers: Numbers) -> Finding:
        """Says what the numbers mean and how to draw them."""

    def run(self, bench: Bench) -> Finding:
        """Measures and says what was found."""
        return self.found(plain(self.measure(bench)))


def plain(numbers: Mapping[Any, Any]) -> Numbers:
    """Returns numbers as they come back from JSON; what isn't finite becomes ``None``."""
    return json.loads(json.dumps(_finite(numbers), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return (float(f"{value:.6g}") if math.isfinite(value) else None) if isinstance(value, float) else value
