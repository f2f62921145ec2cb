"""Alternating measurement of contenders on the same case, in several rounds."""

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
    """Minimum, median and maximum of a number over the rounds."""

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
    """The result of one case.

    Attributes:
        case: The case.
        turns: Turns of each contender by label, one for each round.
        failures: Reasons of contenders that failed, by label.
    """

    case: Case
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def step_seconds(self, label: str) -> Spread:
        return Spread.of([median(turn.steps) for turn in self.turns[label]])

    def product_seconds(self) -> Spread:
        return Spread.of([median(turn.products) for turns in self.turns.values() for turn in turns])

    def over_product(self, label: str) -> Spread:
        """Returns the time of a step relative to the product in the same turn."""
        return Spread.of([median(turn.steps) / median(turn.products) for turn in self.turns[label]])

    def over(self, label: str, other: str) -> Spread:
        """Returns the time of a step relative to that of another contender in the same round."""
        pairs = zip(self.turns[label], self.turns[other], strict=True)
        return Spread.of([median(mine.steps) / median(theirs.steps) for mine, theirs in pairs])


class Stable:
    """Worker processes, which are reused for all cases because importing a library takes seconds.

    Args:
        threads: Number of PyTorch threads in each worker.
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
    """Returns a context with workers, which end with the context."""
    workers = Stable(threads)
    try:
        yield workers
    finally:
        workers.close()


def race(
    case: Case, contenders: list[Contender], workers: Stable, *, rounds: int, seconds: float, turn_seconds: float
) -> Result:
    """Measures all contenders alternately.

    Args:
        case: The case.
        contenders: The contenders.
        workers: Their worker processes.
        rounds: Largest number of rounds.
        seconds: Time after which no new round starts. At least one round is finished.
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
