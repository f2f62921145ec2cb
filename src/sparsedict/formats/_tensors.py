"""`Tensors`, which reads tensors by name from a weights file and checks their shapes."""

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

from sparsedict import checks
from sparsedict.formats._location import listed
from sparsedict.storage import StorageError, looks_like

MAX_TENSORS = 10_000
MAX_INFLATED = 64 * 2**20
"""Decompressed size in bytes up to which a file of any size is accepted."""

MAX_RATIO = 100
"""Largest compression ratio of larger files. The compression ratio of weights is close to 1."""

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Tensors:
    """The tensors of a file by name, with named dimensions. All dimensions of the same name must have the same size.

    Args:
        file: The file, for error messages.
        shapes: Shape of each tensor by name.
        read: Function that reads a tensor by name.
        mapped: Whether ``read`` returns memory-mapped tensors.
    """

    def __init__(
        self, file: Path, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Tensor], *, mapped: bool
    ) -> None:
        self.file = file
        self.shapes = shapes
        self.read = read
        self.mapped = mapped
        self._used: set[str] = set()
        self.sizes: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def take(self, name: str, *sizes: str) -> Tensor:
        """Returns a floating-point tensor with the named dimensions ``sizes``, in separate memory.

        Raises:
            StorageError: If the tensor is missing, has another shape, or isn't of a floating-point type.
        """
        tensor = self._number(name, sizes)
        # Without the copy, the memory map of the file would stay open as long as the weights exist.
        return tensor.clone() if self.mapped else tensor

    def take_transposed(self, name: str, *sizes: str) -> Tensor:
        """Returns the transpose of a matrix. ``sizes`` are the dimensions in the file. See :meth:`take`."""
        return self._number(name, sizes).mT.contiguous()

    def take_any(self, name: str, *sizes: str) -> Tensor:
        """Returns a tensor of any type. See :meth:`take`."""
        return self._checked(name, sizes).clone()

    def _number(self, name: str, sizes: tuple[str, ...]) -> Tensor:
        tensor = self._checked(name, sizes)
        if tensor.dtype not in FLOATS:
            raise StorageError(f"{self.file}: `{name}` must contain floating-point numbers, got {tensor.dtype}.")
        return tensor

    def _checked(self, name: str, sizes: tuple[str, ...]) -> Tensor:
        if name not in self.shapes:
            raise StorageError(
                f"{self.file} must contain `{name}`, but it contains {listed(sorted(self.shapes)) or 'nothing'}."
            )
        shape = self.shapes[name]
        wanted = tuple(self.sizes.setdefault(size, found) for size, found in zip(sizes, shape, strict=False))
        if len(shape) != len(sizes) or shape != wanted or 0 in shape:
            known = {size: self.sizes[size] for size in sizes if size in self.sizes}
            raise StorageError(
                f"{self.file}: `{name}` must have shape [{', '.join(sizes)}]"
                f"{f' with {known}' if known else ''}, got {shape}."
            )
        self._used.add(name)
        return self.read(name)

    def take_optional(self, name: str, *sizes: str) -> Tensor | None:
        """Returns a tensor, or ``None`` if it is missing. See :meth:`take`."""
        return self.take(name, *sizes) if name in self else None

    def number(self, name: str) -> float | None:
        """Returns a tensor of one element as a number, or ``None`` if it is missing."""
        if name not in self:
            return None
        tensor = self.take_any(name, *("one" for _ in self.shapes[name]))
        if tensor.numel() != 1 or tensor.is_complex():
            raise StorageError(f"{self.file}: `{name}` must be a single number, got shape {tuple(tensor.shape)}.")
        return float(tensor)

    def unused(self, ignored: Iterable[str] = ()) -> list[str]:
        """Returns the names of the tensors that haven't been read."""
        return sorted(self.shapes.keys() - self._used - set(ignored))

    def check_all_used(self, library: str, ignored: Iterable[str] = ()) -> None:
        """Checks that all tensors have been read, so that no weight is lost.

        Raises:
            StorageError: If tensors haven't been read. The message lists them.
        """
        extra = self.unused(ignored)
        if extra:
            raise StorageError(
                f"{self.file} must contain the tensors of a {library} checkpoint only, but it also contains "
                f"{listed(extra)}."
            )


def read_safetensors(file: Path) -> Tensors:
    """Opens a safetensors file. Tensors are memory-mapped and read on demand.

    Raises:
        StorageError: If the file is truncated or broken.
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
    # NumPy parses headers with Python's parser and doesn't catch its errors.
    *(SyntaxError, tokenize.TokenError, MemoryError),
)


def read_npz(file: Path) -> Tensors:
    """Opens an npz file. Pickles in the file and suspicious compression ratios raise an error.

    Raises:
        StorageError: If the file is truncated or broken.
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
        return checks.from_numpy(np.ascontiguousarray(array))

    return Tensors(file, {name: shape for name, (shape, _) in headers.items()}, read, mapped=False)


def _npy_header(file: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with archive.open(info) as stream:
        shape, dtype = _read_header(stream)
        start = stream.tell()
    if dtype.hasobject or dtype.kind not in "fiu":
        raise StorageError(f"{file}: `{info.filename}` must contain numbers, got {str(dtype)[:80]}.")
    n_bytes = dtype.itemsize
    for size in shape:
        n_bytes *= size
    if n_bytes != info.file_size - start:
        raise StorageError(
            f"{file}: `{info.filename}` must have {n_bytes:,} bytes for its shape {str(shape)[:80]}, got "
            f"{info.file_size - start:,} bytes."
        )
    return shape, dtype


def _read_header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"npy format version {version} isn't supported")
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {shape} has a negative size")
    return shape, dtype


def _check_inflation(file: Path, n_bytes: int) -> None:
    size = file.stat().st_size
    if n_bytes > MAX_INFLATED and n_bytes > MAX_RATIO * size:
        raise StorageError(
            f"{file} has {size:,} bytes and would decompress to {n_bytes:,} bytes. Weights don't have such a "
            "compression ratio, so the file isn't read."
        )


def _check_count(file: Path, tensors: Mapping[str, object]) -> None:
    if len(tensors) > MAX_TENSORS:
        raise StorageError(f"{file} must contain at most {MAX_TENSORS:,} tensors, got {len(tensors):,}.")
