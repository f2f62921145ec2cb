"""`Alone`, a run in a single process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedict.parallel._parallel import Module, Parallel, Value


@dataclass(frozen=True)
class Alone(Parallel):
    """A run in a single process, the default of ``fit``. It copies and synchronises nothing."""

    rank = 0
    n_ranks = 1
    part = 0
    n_parts = 1

    @contextmanager
    def running(self) -> Iterator[None]:
        yield

    @contextmanager
    def divided(self, dictionary: Module) -> Iterator[Module]:
        yield dictionary

    def exchange(self, *numbers: int) -> list[tuple[int, ...]]:
        return [numbers]

    def share(self, value: Value) -> Value:
        return value

    def gather(self, value: Value) -> list[Value]:
        return [value]

    def values(self, tensor: Tensor) -> Tensor:
        return tensor

    def among_largest(self, values: Tensor, n: int) -> Tensor:
        chosen = torch.zeros_like(values, dtype=torch.bool)
        return chosen.index_fill(0, values.topk(min(n, len(values)), sorted=False).indices, True)

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        pass

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def rows(self, tensor: Tensor) -> Tensor:
        return tensor

    def exchange_rows(self, tensor: Tensor, n_to: Sequence[int], n_from: Sequence[int]) -> Tensor:
        return tensor

    def mean_gradients_(self, parameters: Iterable[Tensor], share: float) -> None:
        pass

    def check_equal(self, tensors: Mapping[str, Tensor], step: int) -> None:
        pass
