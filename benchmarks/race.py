"""Contenders take turns at one case, each after the other, for several rounds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from benchmarks.case import Case
from benchmarks.contenders import Contender
from benchmarks.stopwatch import Order, Turn
from benchmarks.worker import ContenderError, Worker

MAX_STEPS = 20


@dataclass(frozen=True)
class Spread:
    """Smallest, middle and largest of one number over the rounds."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(min(values), median(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.min:.2f} to {self.max:.2f})"


@dataclass
class Result:
    """What one case gave.

    Attributes:
        case: What was trained.
        turns: Of each contender, by label, one turn for each round.
        failures: Of contenders that broke, why.
    """

    case: Case
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def step_seconds(self, label: str) -> Spread:
        return Spread.of([median(turn.steps) for turn in self.turns[label]])

    def product_seconds(self) -> Spread:
        return Spread.of([median(turn.products) for turns in self.turns.values() for turn in turns])

    def over_product(self, label: str) -> Spread:
        """Returns a step's cost over the product's in the same turn."""
        return Spread.of([median(turn.steps) / median(turn.products) for turn in self.turns[label]])

    def over(self, label: str, other: str) -> Spread:
        """Returns a step's cost over another contender's in the same round."""
        pairs = zip(self.turns[label], self.turns[other], strict=True)
        return Spread.of([median(mine.steps) / median(theirs.steps) for mine, theirs in pairs])


class Stable:
    """Workers, kept from one case to the next, for importing a library takes seconds.

    Args:
        threads: Threads of torch in each.
    """

    def __init__(self, threads: int | None) -> None:
        self._threads = threads
        self._workers: dict[Contender, Worker] = {}

    def worker(self, contender: Contender) -> Worker:
        if contender not in self._workers:
            self._workers[contender] = Worker(contender, self._threads)
        return self._workers[contender]

    def dismiss(self, contender: Contender) -> None:
        self._workers.pop(contender).close()

    def close(self) -> None:
        for worker in self._workers.values():
            worker.release()
        for contender in list(self._workers):
            self.dismiss(contender)


@contextmanager
def stable(threads: int | None) -> Iterator[Stable]:
    """Workers that end with the block."""
    workers = Stable(threads)
    try:
        yield workers
    finally:
        workers.close()


def race(
    case: Case, contenders: list[Contender], workers: Stable, *, rounds: int, seconds: float, turn_seconds: float
) -> Result:
    """Measures all contenders in turn.

    Args:
        case: What they train.
        contenders: Who takes part.
        workers: Their processes.
        rounds: Turns of each, at most.
        seconds: No new round begins after this time; one is always finished.
        turn_seconds: A turn has as many timed steps as fit into this time, at least one, at most 20.
    """
    result = Result(case)
    running: list[Contender] = []
    n_steps: dict[Contender, int] = {}
    # All are started before any is waited for, so that they import at the same time.
    for contender in contenders:
        workers.worker(contender).begin(case)
    for contender in contenders:
        turn = _turn(contender, workers, Order(1, n_warm=2), result)
        if turn is not None:
            running.append(contender)
            n_steps[contender] = min(max(round(turn_seconds / turn.steps[0]), 1), MAX_STEPS)
    begin = time.perf_counter()
    for index in range(rounds):
        if index and time.perf_counter() - begin > seconds:
            break
        shift = index % max(len(running), 1)
        for contender in running[shift:] + running[:shift]:
            turn = _turn(contender, workers, Order(n_steps[contender]), result)
            if turn is None:
                running.remove(contender)
            else:
                result.turns.setdefault(contender.label, []).append(turn)
    for contender in running:
        workers.worker(contender).end()
    for label in result.failures:
        result.turns.pop(label, None)
    return result


def _turn(contender: Contender, workers: Stable, order: Order, result: Result) -> Turn | None:
    try:
        return workers.worker(contender).turn(order)
    except ContenderError as error:
        result.failures[contender.label] = str(error)
        workers.dismiss(contender)
        return None
