"""`Study` and `Finding`: a claim of the report, its measurement, and its numbers and figures."""

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

from .claims import Clause, Judgement, Verdict, verdict_of
from .estimates import Measured
from .experiment import Experiment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = dict[str, Any]
"""JSON values from which the text and the figures of a study are made."""


WIDTH = 100
"""Number of characters in a line of text."""


@dataclass(frozen=True)
class Compared:
    """A number of the report with the corresponding measurement.

    Attributes:
        what: Name of the number.
        report: Value in the report.
        here: Measured value.
    """

    what: str
    report: str
    here: str


@dataclass(frozen=True)
class Drawing:
    """A figure that hasn't been drawn yet.

    Attributes:
        draw: Function that draws the figure and returns its Axes.
        caption: Caption of the figure.
    """

    draw: Callable[[], Axes]
    caption: str


@dataclass(frozen=True)
class Finding:
    """The result of a study, in words, numbers and figures.

    Attributes:
        summary: The result in a few sentences.
        clauses: Clauses of the claim, with their measured numbers.
        rows: Numbers of the report with the corresponding measurements.
        drawings: Figures by file name.
        notes: Notes on the method and on limitations.
        files: Additional pages by name, each as a function that writes the page to a path.
        links: Texts of links by their target in the folder of the replication.
    """

    summary: str
    clauses: tuple[Judgement, ...] = ()
    rows: tuple[Compared, ...] = ()
    drawings: Mapping[str, Drawing] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The verdict on the claim, which follows from the clauses."""
        return verdict_of(self.clauses)

    def draw(self, name: str) -> Axes:
        """Draws one of the figures.

        Raises:
            ValueError: If there is no figure of this name.
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
    """A result or a question of the report. A new study is a subclass in a new file.

    A subclass implements `measure`, which returns numbers only; `clauses`, which states the claim as clauses about
    these numbers; and `found`, which makes text and figures from the numbers only. A page can therefore be made again
    from the numbers of an earlier run. The verdict follows from the clauses.

    Attributes:
        name: Name of the study in file names.
        title: Heading of the study.
        shows: Part of the report that the study is about.
        claim: Statement or question of the report.
        given: Pattern of the names of optional JSON files in the folder of a replication. Their contents by name are
            added to the numbers as ``"given"``.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    shows: ClassVar[str]
    claim: ClassVar[str]
    given: ClassVar[str | None] = None

    @abstractmethod
    def measure(self, experiment: Experiment) -> Numbers:
        """Trains the required dictionaries, measures them, and returns the numbers."""

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        """Returns the clauses of the claim, which ``numbers["measured"]`` decides. None by default."""
        return ()

    @abstractmethod
    def found(self, numbers: Numbers) -> Finding:
        """Returns the finding of the numbers, with its text and figures."""

    def measured(self, numbers: Numbers) -> Measured:
        """Returns the measured quantities of the clauses, ``numbers["measured"]``."""
        return numbers["measured"]

    def judge(self, numbers: Numbers) -> tuple[Judgement, ...]:
        """Returns the judgement of each clause by the numbers."""
        known = self.measured(numbers)
        return tuple(clause.judge(known) for clause in self.clauses(numbers))

    def run(self, experiment: Experiment) -> Finding:
        """Measures and returns the finding."""
        return self.found(plain(self.measure(experiment)))


def plain(numbers: Mapping[Any, Any]) -> Numbers:
    """Returns numbers as plain JSON values. Numbers that aren't finite become ``None``."""
    return json.loads(json.dumps(_finite(numbers), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return (float(f"{value:.6g}") if math.isfinite(value) else None) if isinstance(value, float) else value
