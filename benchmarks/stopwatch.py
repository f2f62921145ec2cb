"""A data source that measures training steps by the time between two batches.

Each library runs its own training loop and takes its batches from here, so whatever it does in a step is counted and
nothing of it had to be written again. Between turns the source waits, and with it the library.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Case


class FinishedError(Exception):
    """Raised to leave the training loop of a library."""


@dataclass(frozen=True)
class Order:
    """The number of warm-up steps and of measured steps of a turn."""

    n_steps: int
    n_warm: int = 1


@dataclass(frozen=True)
class Turn:
    """The measurements of one turn, in seconds.

    Attributes:
        steps: Each step.
        products: The encoder's product in the same process, before and after the steps.
    """

    steps: list[float]
    products: list[float]


class Clock:
    """Records times, on CUDA with events of the device."""

    def __init__(self, case: Case) -> None:
        self._cuda = case.on_cuda

    def mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, pairs: list[tuple[Any, Any]]) -> list[float]:
        if not self._cuda:
            return [end - start for start, end in pairs]
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in pairs]


class Unit:
    """The encoder's forward product alone, written into a reused buffer: float32, on CUDA bfloat16.

    For several layers the unit is one product for each layer.
    """

    def __init__(self, case: Case) -> None:
        self._case = case
        self._clock = Clock(case)
        dtype = torch.bfloat16 if case.on_cuda else torch.float32
        self._inputs = torch.randn(case.n_tokens, case.d, device=case.device, dtype=dtype)
        self._weight = torch.randn(case.n_latents, case.d, device=case.device, dtype=dtype)

    @torch.no_grad()
    def seconds(self, times: int) -> list[float]:
        """Times the product, after one that isn't timed."""
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        out = torch.empty(len(self._inputs), len(self._weight), device=self._inputs.device, dtype=self._inputs.dtype)
        torch.mm(self._inputs, self._weight.T, out=out)
        pairs = []
        for _ in range(times):
            start = self._clock.mark()
            for _ in range(self._case.n_layers):
                torch.mm(self._inputs, self._weight.T, out=out)
            pairs.append((start, self._clock.mark()))
        torch.set_float32_matmul_precision(precision)
        return self._clock.seconds(pairs)


def timed(case: Case, orders: Iterator[Order], report: Callable[[Turn], None]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches for the steps of each order, and reports their times.

    Raises:
        FinishedError: Once there are no more orders.
    """
    clock, unit, batches = Clock(case), Unit(case), cycle(case.batches())
    for order in orders:
        products = unit.seconds(2)
        for _ in range(order.n_warm):
            yield next(batches)
        pairs = []
        for _ in range(order.n_steps):
            batch = next(batches)
            start = clock.mark()
            yield batch
            pairs.append((start, clock.mark()))
        steps = clock.seconds(pairs)
        report(Turn(steps, products + unit.seconds(2)))
    raise FinishedError
