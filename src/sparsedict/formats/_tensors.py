"""What a file of weights holds, taken out by name with the shapes checked."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparsedict.formats._place import listed
from sparsedict.storage import StorageError, looks_like

MAX_TENSORS = 10_000
MAX_INFLATED = 64 * 2**20
"""Bytes that a compressed file may grow to without being suspect, whatever its own size."""

MAX_RATIO = 100
"""What a compressed file may grow by beyond that; weights hardly compress at all."""

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Tensors:
    """The tensors of one file, by name. Sizes are named, and each name means one size throughout.

    Args:
        file: Where they come from, for errors.
        shapes: Shape by name.
        read: Reads one by name.
        mapped: Whether what it gives lies in the file, mapped into memory.
    """

    def __init__(
        self, file: Path, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Tensor], *, mapped: bool
    ) -> None:
        self.file = file
        self.shapes = shapes
        self.read = read
        self.mapped = mapped
        self._taken: set[str] = set()
        self.sizes: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def take(self, name: str, *sizes: str) -> Tensor:
        """Returns a tensor of the shape that these sizes name, in memory of its own.

        Raises:
            StorageError: If it is missing, of another shape, or no floating-point numbers.
        """
        tensor = self._number(name, sizes)
        # The file's memory map would otherwise stay open as long as the weights live.
        return tensor.clone() if self.mapped else tensor

    def take_turned(self, name: str, *sizes: str) -> Tensor:
        """As :meth:`take`, with the two dimensions swapped: the sizes are those in the file."""
        return self._number(name, sizes).mT.contiguous()

    def take_any(self, name: str, *sizes: str) -> Tensor:
        """As :meth:`take`, of numbers of any type."""
        return self._checked(name, sizes).clone()

    def _number(self, name: str, sizes: tuple[str, ...]) -> Tensor:
        tensor = self._checked(name, sizes)
        if tensor.dtype not in FLOATS:
            raise StorageError(f"{self.file}: `{name}` must hold floating-point numbers, got {tensor.dtype}.")
        return tensor

    def _checked(self, name: str, sizes: tuple[str, ...]) -> Tensor:
        if name not in self.shapes:
            raise StorageError(f"{self.file} lacks `{name}`; it holds {listed(sorted(self.shapes)) or 'nothing'}.")
        shape = self.shapes[name]
        wanted = tuple(self.sizes.setdefault(size, found) for size, found in zip(sizes, shape, strict=False))
        if len(shape) != len(sizes) or shape != wanted or 0 in shape:
            known = {size: self.sizes[size] for size in sizes if size in self.sizes}
            raise StorageError(
                f"{self.file}: `{name}` must be of shape [{', '.join(sizes)}]"
                f"{f' with {known}' if known else ''}, got {shape}."
            )
        self._taken.add(name)
        return self.read(name)

    def maybe(self, name: str, *sizes: str) -> Tensor | None:
        """As :meth:`take`; ``None`` where it is missing."""
        return self.take(name, *sizes) if name in self else None

    def number(self, name: str) -> float | None:
        """Returns a single number, ``[]`` or ``[1]``; ``None`` where it is missing."""
        if name not in self:
            return None
        tensor = self.take_any(name, *("one" for _ in self.shapes[name]))
        if tensor.numel() != 1 or tensor.is_complex():
            raise StorageError(f"{self.file}: `{name}` must be a single number, got shape {tuple(tensor.shape)}.")
        return float(tensor)

    def left(self, ignored: Iterable[str] = ()) -> list[str]:
        """Returns the names of the tensors that nobody took."""
        return sorted(self.shapes.keys() - self._taken - set(ignored))

    def finish(self, library: str, ignored: Iterable[str] = ()) -> None:
        """Refuses tensors that nobody took: something would be lost.

        Raises:
            StorageError: Which they are.
        """
        extra = self.left(ignored)
        if extra:
            raise StorageError(
                f"{self.file} holds tensors that no {library} checkpoint of this kind has: {listed(extra)}."
            )


def read_safetensors(file: Path) -> Tensors:
    """Opens a safetensors file; each tensor is read through a memory map when it is taken.

    Raises:
        StorageError: If it is truncated or broken.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            names: list[str] = list(stored.keys())
            shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise StorageError(f"{file} is truncated or isn't a safetensors file{looks_like(file)}: {error}.") from None
    _check_count(file, shapes)

    def read(name: str) -> Tensor:
        try:
            with safe_open(file, framework="pt") as stored:
                return stored.get_tensor(name)
        except (SafetensorError, OSError, ValueError, AttributeError, KeyError) as error:
            raise StorageError(f"{file}: `{name}` can't be read: {error}.") from None

    return Tensors(file, shapes, read, mapped=True)


_BROKEN_NPZ = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError, TypeError),
    # NumPy reads headers by Python's own parser, and lets its errors through.
    *(SyntaxError, tokenize.TokenError, MemoryError),
)


def read_npz(file: Path) -> Tensors:
    """Opens an npz file; no pickle in it is read, and nothing that grows beyond what weights may.

    Raises:
        StorageError: If it is truncated or broken.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            _check_count(file, members)
            headers = {name: _npy_header(file, archive, info) for name, info in members.items()}
    except _BROKEN_NPZ as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{file} is truncated or isn't an npz file{looks_like(file)}: {error}.") from None
    _check_inflation(file, sum(info.file_size for info in members.values()))

    def read(name: str) -> Tensor:
        try:
            with zipfile.ZipFile(file) as archive, archive.open(members[name]) as stream:
                array = np.lib.format.read_array(stream, allow_pickle=False)
        except _BROKEN_NPZ as error:
            raise StorageError(f"{file}: `{name}` can't be read: {error}.") from None
        return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)))

    return Tensors(file, {name: shape for name, (shape, _) in headers.items()}, read, mapped=False)


def _npy_header(file: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with archive.open(info) as stream:
        shape, dtype = _read_header(stream)
        start = stream.tell()
    if dtype.hasobject or dtype.kind not in "fiu":
        raise StorageError(f"{file}: `{info.filename}` must hold numbers, got {str(dtype)[:80]}.")
    n_bytes = dtype.itemsize
    for size in shape:
        n_bytes *= size
    if n_bytes != info.file_size - start:
        raise StorageError(
            f"{file}: `{info.filename}` says it has shape {str(shape)[:80]}, {n_bytes:,} bytes, but "
            f"{info.file_size - start:,} bytes follow."
        )
    return shape, dtype


def _read_header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"npy format version {version} is none of arrays of numbers")
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {shape} has a negative size")
    return shape, dtype


def _check_inflation(file: Path, n_bytes: int) -> None:
    size = file.stat().st_size
    if n_bytes > MAX_INFLATED and n_bytes > MAX_RATIO * size:
        raise StorageError(
            f"{file} has {size:,} bytes and would grow to {n_bytes:,}: weights don't compress so far, so it isn't read."
        )


def _check_count(file: Path, tensors: Mapping[str, object]) -> None:
    if len(tensors) > MAX_TENSORS:
        raise StorageError(f"{file} holds {len(tensors):,} tensors, more than any dictionary has.")
