"""Memory that training steps reuse, since a new large array costs a page fault per four kilobytes."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor

MIN_ARRAY_BYTES = 2**20
"""Size of an array below which the system's allocator is used."""

ALIGNMENT = 64
"""Alignment of arrays in bytes: a cache line, and a multiple of every item size."""


class Workspace:
    """Reuses the memory of the previous step's gradients on the CPU. Accelerators cache freed memory anyway.

    Scratch arrays use the memory of the old gradients until new gradients are written there. A gradient with other
    references, such as from a callback, isn't reused.

    Copying or unpickling a workspace creates an empty one.
    """

    def __init__(self) -> None:
        self._scratch: dict[tuple[str, torch.dtype], Tensor] = {}
        self._lent: dict[tuple[str, torch.dtype], Tensor] = {}
        self._arrays: list[Tensor] = []
        self._reclaimed: list[_Reclaimed] = []
        self._is_new = True

    def __reduce__(self) -> tuple[Any, ...]:
        return Workspace, ()

    def reclaim(self, gradients: list[Tensor]) -> None:
        """Reclaims the gradients without references other than this list, until :meth:`release`.

        Args:
            gradients: Gradients of the previous step. Delete the list after the call, since PyTorch copies gradients
                with other references when it accumulates them.
        """
        self._reclaimed, self._lent = [], {}
        counts, (unshared,) = _reference_counts(gradients), _reference_counts([torch.empty(1, device="cpu")])
        self._reclaimed = [
            _Reclaimed(gradient)
            for gradient, count in zip(gradients, counts, strict=True)
            if gradient.device.type == "cpu" and unshared is not None and count == unshared
        ]

    def release(self) -> None:
        """Ends a step, and frees memory that no gradient used."""
        self._reclaimed, self._lent = [], {}
        if self._is_new:
            # Only the first step has no old gradients for its scratch arrays.
            self._scratch.clear()
        self._is_new = False

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        """Returns a reclaimed array of a shape and dtype, and invalidates the scratch arrays in it."""
        for i, reclaimed in enumerate(self._reclaimed):
            array = reclaimed.array
            if tuple(array.shape) == shape and array.dtype == dtype and reclaimed.is_contiguous:
                self._lent.clear()
                del self._reclaimed[i]
                return array
        return None

    def array(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Returns an uninitialised array outside of old gradients.

        Its memory is used for another array as soon as no tensor refers to it. Steps allocate large arrays of the same
        sizes again and again, and the heap would leave gaps between them.
        """
        size = math.prod(shape) * dtype.itemsize
        if size < MIN_ARRAY_BYTES:
            return torch.empty(shape, dtype=dtype, device="cpu")
        free = [array for array in self._arrays if self._is_free(array)]
        found = min((array for array in free if array.nbytes >= size), key=len, default=None)
        if found is None:
            # All free arrays are too small.
            self._arrays = [array for array in self._arrays if not any(array is small for small in free)]
            found = torch.empty(size, dtype=torch.uint8, device="cpu")
            self._arrays.append(found)
        # A tensor of its own, because a view would make operations in place expensive for autograd.
        view = found[:size].view(dtype).view(shape)
        result = torch.empty(0, dtype=dtype, device="cpu")
        result.data = view
        return result

    def _is_free(self, array: Tensor) -> bool:
        """Returns whether no tensor but that of the workspace refers to the memory of an array."""
        own, unshared = (_uses_of_storage(value) for value in (array, torch.empty(1, device="cpu")))
        return own is not None and own == unshared

    def scratch(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Returns an uninitialised array, which is valid until the next call with the same name or of :meth:`take`."""
        key, size = (name, dtype), math.prod(shape)
        found = self._lent.get(key, self._scratch.get(key))
        if found is None or len(found) < size:
            lent = next((part for array in self._reclaimed if (part := array.allocate(size, dtype)) is not None), None)
            if lent is None:
                found = self._scratch[key] = torch.empty(size, dtype=dtype, device="cpu")
            else:
                found = self._lent[key] = lent
        return found[:size].view(shape)


class _Reclaimed:
    """An array without other references, whose memory is handed out in parts."""

    def __init__(self, array: Tensor) -> None:
        self.array = array
        self.is_contiguous = array.is_contiguous()
        self._n_free = array.nbytes if self.is_contiguous and not array.requires_grad else 0
        # The start of a part must be aligned for its dtype.
        if array.storage_offset() * array.itemsize % ALIGNMENT:
            self._n_free = 0
        self._n_lent = 0

    def allocate(self, size: int, dtype: torch.dtype) -> Tensor | None:
        """Returns ``size`` items of a dtype from the free memory, or ``None`` if too little is free."""
        end = self._n_lent + size * dtype.itemsize
        if end > self._n_free:
            return None
        part = self.array.view(-1).view(torch.uint8)[self._n_lent : end].view(dtype)
        self._n_lent = -(-end // ALIGNMENT) * ALIGNMENT
        return part


def _reference_counts(arrays: list[Tensor]) -> list[tuple[int, int, int] | None]:
    """Returns the numbers of references to each array and its memory, from Python, autograd, views and other libraries.

    Compare them with the counts of an unshared array. They are ``None`` if PyTorch doesn't provide them.
    """
    count_of_tensor = getattr(Tensor, "_use_count", None)
    if count_of_tensor is None:
        return [None] * len(arrays)
    found: list[tuple[int, int, int] | None] = []
    for array in arrays:
        uses = _uses_of_storage(array)
        # `array` is one reference more, in each of the counts.
        found.append(None if uses is None else (sys.getrefcount(array), count_of_tensor(array), uses))
    return found


def _uses_of_storage(array: Tensor) -> int | None:
    """Returns the number of references to the memory of an array; ``None`` if PyTorch doesn't provide it."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    # `Tensor.untyped_storage` would add a lasting reference, and autograd only accumulates in place if there is one.
    address = getattr(torch._C, "_storage_address", None)
    return None if count is None or address is None else count(address(array))


def scratch(
    workspace: Workspace | None, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Returns an uninitialised array: from the workspace on the CPU, if there is one, else a new array."""
    if workspace is None or device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    return workspace.scratch(name, shape, dtype)
