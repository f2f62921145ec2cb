"""Claims as lists of clauses, each with a measured number and a rule, and the verdict on a claim."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .estimates import Estimate, Measured, Quantity

Result = Literal["holds", "doesn't hold", "can't tell", "not measured"]
"""The result of a clause."""
Verdict = Literal["seen", "partly seen", "not seen", "can't tell", "not measured", "no claim"]
"""The verdict on a claim."""


class Rule(ABC):
    """A condition on an estimate."""

    @abstractmethod
    def result(self, estimate: Estimate) -> Result:
        """Compares the interval with the bounds. The result is ``"can't tell"`` if the interval contains a bound."""

    @abstractmethod
    def told(self, form: str) -> str:
        """Formats the rule, with numbers in the given form."""


@dataclass(frozen=True)
class Above(Rule):
    """The quantity is larger than ``bound``."""

    bound: float

    def result(self, estimate: Estimate) -> Result:
        return "holds" if estimate.low > self.bound else "doesn't hold" if estimate.high <= self.bound else "can't tell"

    def told(self, form: str) -> str:
        return f"above {self.bound:{form}}"


@dataclass(frozen=True)
class Below(Rule):
    """The quantity is smaller than ``bound``."""

    bound: float

    def result(self, estimate: Estimate) -> Result:
        return "holds" if estimate.high < self.bound else "doesn't hold" if estimate.low >= self.bound else "can't tell"

    def told(self, form: str) -> str:
        return f"below {self.bound:{form}}"


@dataclass(frozen=True)
class Between(Rule):
    """The quantity is between ``low`` and ``high``."""

    low: float
    high: float

    def result(self, estimate: Estimate) -> Result:
        if self.low <= estimate.low and estimate.high <= self.high:
            return "holds"
        return "doesn't hold" if estimate.high < self.low or estimate.low > self.high else "can't tell"

    def told(self, form: str) -> str:
        return f"{self.low:{form}} to {self.high:{form}}"


@dataclass(frozen=True)
class Clause:
    """A part of a claim that can be decided by a measured number.

    Attributes:
        says: The statement.
        quantity: The measured number.
        rule: The condition on the number.
        report: The number in the report.
        form: Format of the numbers.
    """

    says: str
    quantity: Quantity
    rule: Rule
    report: str = "-"
    form: str = ".2f"

    def judge(self, measured: Measured) -> Judgement:
        """Decides the clause by measured numbers."""
        return Judgement(self, self.quantity.estimate(measured))


@dataclass(frozen=True)
class Judgement:
    """A clause with its measured number.

    Attributes:
        clause: The clause.
        estimate: The measured number with its interval, or ``None`` if it wasn't measured.
    """

    clause: Clause
    estimate: Estimate | None

    @property
    def result(self) -> Result:
        """Whether the clause holds."""
        return "not measured" if self.estimate is None else self.clause.rule.result(self.estimate)

    @property
    def rule(self) -> str:
        """The condition, as text."""
        return self.clause.rule.told(self.clause.form)

    @property
    def here(self) -> str:
        """The measured number with its interval, as text."""
        return "-" if self.estimate is None else self.estimate.told(self.clause.form)


def verdict_of(judgements: Sequence[Judgement]) -> Verdict:
    """Returns the verdict on a claim from the results of its clauses.

    The verdict is ``"seen"`` if all clauses hold, ``"partly seen"`` if some hold, ``"not seen"`` if all fail,
    ``"can't tell"`` if no clause holds and some are undecided, ``"not measured"`` if no clause was measured, and
    ``"no claim"`` if there are no clauses.
    """
    if not judgements:
        return "no claim"
    results = {judgement.result for judgement in judgements}
    if results == {"not measured"}:
        return "not measured"
    if "holds" in results:
        return "seen" if results == {"holds"} else "partly seen"
    return "not seen" if results == {"doesn't hold"} else "can't tell"
