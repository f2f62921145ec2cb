"""Numbers that a penalty holds for each dictionary that is trained with it."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sparsedict.dictionaries import Dictionary, ForwardPass


class PerDictionary:
    """A number for each dictionary that is trained with a penalty, as a tensor that the penalty changes in place.

    Args:
        start: The number at the first step of a run.
    """

    def __init__(self, start: float) -> None:
        self._start = start
        self._numbers: WeakKeyDictionary[Dictionary, Tensor] = WeakKeyDictionary()
        self._last_step: WeakKeyDictionary[Dictionary, int] = WeakKeyDictionary()
        self._waiting: list[Tensor] = []

    def get(self, out: ForwardPass) -> Tensor:
        """Returns the number of the dictionary in training. The first step of a run creates it."""
        dictionary = out.dictionary
        if out.step == 0:
            self._forget_earlier_runs()
        if dictionary not in self._numbers:
            # The caller's default device may differ.
            new = torch.full((), self._start, device="cpu", dtype=torch.float32)
            start = self._waiting.pop(0) if self._waiting else new
            self._numbers[dictionary] = start.to(out.targets.device)
        self._last_step[dictionary] = out.step
        return self._numbers[dictionary]

    def _forget_earlier_runs(self) -> None:
        """Removes dictionaries of earlier runs, which may still exist. The state has the order of the current run."""
        self._waiting.clear()
        for other, last_step in list(self._last_step.items()):
            if last_step > 0:
                del self._numbers[other], self._last_step[other]

    def values(self) -> list[Any]:
        """Returns the numbers in the order in which their dictionaries are trained."""
        return list(self._numbers.values()) or list(self._waiting)

    def restore(self, numbers: list[Tensor]) -> None:
        """Assigns numbers, in this order, to the dictionaries of the next run."""
        self._numbers.clear()
        self._last_step.clear()
        self._waiting[:] = [value.clone() for value in numbers]
