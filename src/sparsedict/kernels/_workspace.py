"""Large arrays that are used again from step to step: fresh ones would cost a page fault for every four kilobytes."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_here = threading.local()


class Workspace:
    """Arrays kept for the next step. Accelerators keep freed memory themselves, so it serves the CPU alone."""

    def __init__(self) -> None:
        self._scratch: dict[tuple[str, torch.dtype], Tensor] = {}
        self._offered: list[Tensor] = []

    def offer(self, arrays: Iterable[Tensor | None]) -> None:
        """Takes arrays that nobody reads any more, such as the gradients of the last step: results may lie in them."""
        self._offered = [array for array in arrays if array is not None and array.device.type == "cpu"]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Lets what runs inside, in this thread, take arrays from here."""
        before = getattr(_here, "workspace", None)
        _here.workspace = self
        try:
            yield
        finally:
            self._offered = []
            _here.workspace = before

    def take(self, like: tuple[tuple[int, ...], torch.dtype]) -> Tensor | None:
        """Returns an offered array of a shape and type, once."""
        for i, array in enumerate(self._offered):
            if (tuple(array.shape), array.dtype) == like and array.is_contiguous():
                return self._offered.pop(i)
        return None

    def scratch(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Returns an array, not cleared, that is valid until the same name is asked for again."""
        size = math.prod(shape)
        kept = self._scratch.get((name, dtype))
        if kept is None or len(kept) < size:
            kept = self._scratch[name, dtype] = torch.empty(size, dtype=dtype)
        return kept[:size].view(shape)


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
