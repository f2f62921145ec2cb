"""Memory that training steps reuse: a new large array costs a page fault for every four kilobytes."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes between the beginnings of arrays in one piece of memory: a cache line, and a multiple of every item's size."""


class Workspace:
    """Reuses the memory of the previous step's gradients on the CPU; accelerators cache freed memory themselves.

    Scratch arrays lie in the old gradients until the first new gradient is written; gradients are then written over
    them. A gradient that anything else refers to, such as a callback that keeps it, is left as it is.

    A copy of a workspace, or one read from a pickle, is empty.
    """

    def __init__(self) -> None:
        self._scratch: dict[tuple[str, torch.dtype], Tensor] = {}
        self._lent: dict[tuple[str, torch.dtype], Tensor] = {}
        self._reclaimed: list[_Reclaimed] = []
        self._is_new = True

    def __reduce__(self) -> tuple[Any, ...]:
        return Workspace, ()

    def reclaim(self, gradients: list[Tensor]) -> None:
        """Takes the gradients to which nothing but this list refers, until :meth:`release`.

        Args:
            gradients: Gradients of the previous step. Drop the list after the call: PyTorch copies a gradient that
                something else refers to when it is accumulated.
        """
        self._reclaimed, self._lent = [], {}
        counts, (unshared,) = _reference_counts(gradients), _reference_counts([torch.empty(1, device="cpu")])
        self._reclaimed = [
            _Reclaimed(gradient)
            for gradient, count in zip(gradients, counts, strict=True)
            if gradient.device.type == "cpu" and unshared is not None and count == unshared
        ]

    def release(self) -> None:
        """Ends a step: frees the memory that no gradient took."""
        self._reclaimed, self._lent = [], {}
        if self._is_new:
            # The first step has no old gradients to put scratch arrays in; the next steps have.
            self._scratch.clear()
        self._is_new = False

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        """Returns a reclaimed array of a shape and type, once, and invalidates the scratch arrays in it."""
        for i, reclaimed in enumerate(self._reclaimed):
            array = reclaimed.array
            if tuple(array.shape) == shape and array.dtype == dtype and reclaimed.is_contiguous:
                self._lent.clear()
                del self._reclaimed[i]
                return array
        return None

    def scratch(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Returns an uninitialised array, valid until the same name is asked for again or an array is taken."""
        key, size = (name, dtype), math.prod(shape)
        found = self._lent.get(key, self._scratch.get(key))
        if found is None or len(found) < size:
            lent = next((part for array in self._reclaimed if (part := array.lend(size, dtype)) is not None), None)
            if lent is None:
                found = self._scratch[key] = torch.empty(size, dtype=dtype, device="cpu")
            else:
                found = self._lent[key] = lent
        return found[:size].view(shape)


class _Reclaimed:
    """An array that nothing else refers to, parts of which are lent."""

    def __init__(self, array: Tensor) -> None:
        self.array = array
        self.is_contiguous = array.is_contiguous()
        self._n_free = array.nbytes if self.is_contiguous and not array.requires_grad else 0
        # A part of another type must begin where that type may.
        if array.storage_offset() * array.itemsize % ALIGNMENT:
            self._n_free = 0
        self._n_lent = 0

    def lend(self, size: int, dtype: torch.dtype) -> Tensor | None:
        """Returns a part of it as ``size`` items of a type, or ``None`` where too little is free."""
        end = self._n_lent + size * dtype.itemsize
        if end > self._n_free:
            return None
        part = self.array.view(-1).view(torch.uint8)[self._n_lent : end].view(dtype)
        self._n_lent = -(-end // ALIGNMENT) * ALIGNMENT
        return part


def _reference_counts(arrays: list[Tensor]) -> list[tuple[int, int, int] | None]:
    """Returns how often Python, autograd, views and other libraries refer to each array and its memory.

    Compare with the counts of an unshared array. They are ``None`` where this version of PyTorch doesn't give them.
    """
    count_of_storage = getattr(torch._C, "_storage_Use_Count", None)
    # `Tensor.untyped_storage` would leave a reference behind, and autograd adds in place only where there is one.
    address_of_storage = getattr(torch._C, "_storage_address", None)
    count_of_tensor = getattr(Tensor, "_use_count", None)
    if count_of_storage is None or address_of_storage is None or count_of_tensor is None:
        return [None] * len(arrays)
    return [
        (sys.getrefcount(array), count_of_tensor(array), count_of_storage(address_of_storage(array)))
        for array in arrays
    ]


def scratch(
    workspace: Workspace | None, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Returns an uninitialised array: on the CPU that of a workspace, where there is one, else a new one."""
    if workspace is None or device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    return workspace.scratch(name, shape, dtype)
