"""A study: a claim, its measurement, its numbers and its figures."""

from __future__ import annotations

import json
import math
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sparsedict import checks
from sparsedict.display import aligned

from .bench import Bench
from .claims import Clause, Judgement, Verdict, verdict_of
from .estimates import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = dict[str, Any]
"""What JSON can hold: everything that a study's prose and figures are made of."""


WIDTH = 100
"""Characters to a line of text."""


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
    """The result of a study, in words, numbers and figures.

    Attributes:
        summary: The result in a few sentences.
        clauses: The claim's clauses, each with its measured number.
        rows: Numbers beside the report's.
        drawings: Figures by file name.
        notes: How it was measured, and what to beware of.
        files: Pages of its own by name, each as a function that writes it to a path.
    """

    summary: str
    clauses: tuple[Judgement, ...] = ()
    rows: tuple[Compared, ...] = ()
    drawings: Mapping[str, Drawing] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Whether the claim was seen, which the clauses alone decide."""
        return verdict_of(self.clauses)

    def draw(self, name: str) -> Axes:
        """Draws one of the figures.

        Raises:
            ValueError: If there is none of that name.
        """
        return self.drawings[checks.one_of("name", name, self.drawings)].draw()

    def __str__(self) -> str:
        parts = [textwrap.fill(f"{self.verdict}: {self.summary}", WIDTH)]
        if self.clauses:
            clauses = {
                part.clause.says: {"here": part.here, "rule": part.rule, "result": part.result} for part in self.clauses
            }
            parts.append(aligned(clauses, ("here", "rule", "result")))
        if self.rows:
            rows = {row.what: {"the report": row.report, "here": row.here} for row in self.rows}
            parts.append(aligned(rows, ("the report", "here")))
        return "\n".join(parts)


class Study(ABC):
    """One result of the report, or one of its questions: a new study is one file with a subclass.

    A subclass implements `measure`, which does the work and returns numbers alone; `clauses`, which states the claim
    as clauses about these numbers; and `found`, which makes words and figures of the numbers and of nothing else. So a
    page can be made again from the numbers of an earlier run, and both always agree. The verdict follows from the
    clauses.

    Attributes:
        name: Of its files.
        title: Its heading.
        shows: Which part of the report it is about.
        claim: The report's statement or question.
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

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        """Returns the parts of the claim that ``numbers["measured"]`` decides; none by default."""
        return ()

    @abstractmethod
    def found(self, numbers: Numbers) -> Finding:
        """Says what the numbers mean and how to draw them."""

    def measured(self, numbers: Numbers) -> Measured:
        """Returns the quantities that clauses are decided by: ``numbers["measured"]``."""
        return numbers["measured"]

    def judge(self, numbers: Numbers) -> tuple[Judgement, ...]:
        """Decides every clause by the numbers, for the `Finding`."""
        known = self.measured(numbers)
        return tuple(clause.judge(known) for clause in self.clauses(numbers))

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
