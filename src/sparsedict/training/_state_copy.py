"""`StateCopy`, a copy of tensors that takes no memory of the device on which they are trained."""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Mapping
from contextlib import suppress
from tempfile import TemporaryFile
from typing import IO, NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 64
"""Alignment of tensors in the file in bytes, a multiple of every item size."""


class _Segment(NamedTuple):
    """The position of a tensor in the file, in bytes, and its type."""

    start: int
    shape: torch.Size
    dtype: torch.dtype


class StateCopy:
    """A copy of tensors, which is overwritten by each :meth:`write`.

    Tensors on the CPU are copied to a temporary file without a name, which the operating system keeps in memory only as
    long as nothing else needs it. If the file can't be written, as on a full disk, they are copied to memory. Tensors
    on other devices are copied to the memory of the host.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._is_writable = True
        self._segments: dict[str, _Segment] = {}
        self._in_memory: dict[str, Tensor] = {}

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Copies tensors, and forgets the earlier copy."""
        self._segments = {}
        on_cpu = {name: value for name, value in tensors.items() if value.device.type == "cpu"}
        if self._is_writable and on_cpu:
            try:
                self._segments = self._write_file(on_cpu)
            except OSError:
                # The tensors themselves are intact, so nothing is lost.
                self._is_writable = False
                self._close()
        others = {name: value for name, value in tensors.items() if name not in self._segments}
        self._in_memory = {name: self._copied(name, value.detach()) for name, value in others.items()}

    def _copied(self, name: str, value: Tensor) -> Tensor:
        """Returns a copy of a tensor in the memory of the host, in place of the earlier copy if there is one."""
        copy = self._in_memory.get(name)
        if copy is None:
            copy = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        return copy.copy_(value)

    def read(self) -> dict[str, Tensor]:
        """Returns the tensors on the CPU, valid until the next :meth:`write`."""
        if self._file is None or not any(math.prod(segment.shape) for segment in self._segments.values()):
            mapped: mmap.mmap | bytearray = bytearray()
        else:
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        in_file = {name: _tensor(mapped, segment) for name, segment in self._segments.items()}
        return in_file | self._in_memory

    def _write_file(self, tensors: Mapping[str, Tensor]) -> dict[str, _Segment]:
        if self._file is None:
            self._file = TemporaryFile(prefix="sparsedict-")  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        end, segments = 0, {}
        for name, value in tensors.items():
            segments[name] = segment = _Segment(-(-end // ALIGNMENT) * ALIGNMENT, value.shape, value.dtype)
            self._file.seek(segment.start)
            self._file.write(value.detach().reshape(-1).view(torch.uint8).numpy().data)
            end = segment.start + value.nbytes
        self._file.flush()
        return segments

    def _close(self) -> None:
        if self._file is not None:
            # Closing writes the rest of the buffer, which fails again.
            with suppress(OSError):
                self._file.close()
            self._file = None


def _tensor(mapped: mmap.mmap | bytearray, segment: _Segment) -> Tensor:
    count = math.prod(segment.shape)
    if not count:
        return torch.empty(segment.shape, dtype=segment.dtype, device="cpu")
    return torch.frombuffer(mapped, dtype=segment.dtype, count=count, offset=segment.start).view(segment.shape)
