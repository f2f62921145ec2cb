"""Large arrays that are used again from step to step: fresh ones would cost a page fault for every four kilobytes."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_here = threading.local()


ALIGNMENT = 64
"""Bytes between which arrays in one piece of memory begin: a cache line, and a multiple of every item's size."""


class Workspace:
    """Arrays kept for the next step. Accelerators keep freed memory themselves, so it serves the CPU alone.

    The last step's gradients lie idle until the first of the new ones is written. Until then what a step needs in
    passing lies in them, as far as it fits, and takes no memory of its own.
    """

    def __init__(self) -> None:
        self._scratch: dict[tuple[str, torch.dtype], Tensor] = {}
        self._lent: dict[tuple[str, torch.dtype], Tensor] = {}
        self._offered: list[_Offered] = []
        self._is_new = True

    def offer(self, arrays: Iterable[Tensor | None]) -> None:
        """Takes arrays that nobody reads any more, such as the gradients of the last step: results may lie in them."""
        self._take_back()
        self._offered = [_Offered(array) for array in arrays if array is not None and array.device.type == "cpu"]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Lets what runs inside, in this thread, take arrays from here."""
        before = getattr(_here, "workspace", None)
        _here.workspace = self
        try:
            yield
        finally:
            self._take_back()
            if self._is_new:
                # From the next step on there are gradients for it to lie in.
                self._scratch.clear()
            self._is_new = False
            _here.workspace = before

    def take(self, like: tuple[tuple[int, ...], torch.dtype]) -> Tensor | None:
        """Returns an offered array of a shape and type, once."""
        for i, offered in enumerate(self._offered):
            if (tuple(offered.array.shape), offered.array.dtype) == like and offered.is_contiguous:
                self._lent.clear()
                return self._offered.pop(i).array
        return None

    def scratch(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Returns an array, not cleared, that is valid until the same name is asked for again, or a result taken."""
        key, size = (name, dtype), math.prod(shape)
        kept = self._lent.get(key, self._scratch.get(key))
        if kept is None or len(kept) < size:
            lent = next((part for array in self._offered if (part := array.lend(size, dtype)) is not None), None)
            if lent is None:
                kept = self._scratch[key] = torch.empty(size, dtype=dtype, device="cpu")
            else:
                kept = self._lent[key] = lent
        return kept[:size].view(shape)

    def _take_back(self) -> None:
        self._offered, self._lent = [], {}


class _Offered:
    """An array that nobody reads, parts of which are lent."""

    def __init__(self, array: Tensor) -> None:
        self.array = array
        self.is_contiguous = array.is_contiguous()
        self._n_free = array.nbytes if self.is_contiguous and not array.requires_grad else 0
        # A part of another type must begin where that type may.
        if array.storage_offset() * array.itemsize % ALIGNMENT:
            self._n_free = 0
        self._n_lent = 0

    def lend(self, size: int, dtype: torch.dtype) -> Tensor | None:
        """Returns a part of it as ``size`` items of a type, or ``None`` where no room is left."""
        end = self._n_lent + size * dtype.itemsize
        if end > self._n_free:
            return None
        part = self.array.view(-1).view(torch.uint8)[self._n_lent : end].view(dtype)
        self._n_lent = -(-end // ALIGNMENT) * ALIGNMENT
        return part


def scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns an array for passing use, from the workspace in use where there is one."""
    workspace: Workspace | None = getattr(_here, "workspace", None)
    if workspace is None or device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    return workspace.scratch(name, shape, dtype)


def result(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """Returns an offered array for a result on the CPU, if there is one."""
    workspace: Workspace | None = getattr(_here, "workspace", None)
    return None if workspace is None else workspace.take((shape, dtype))
