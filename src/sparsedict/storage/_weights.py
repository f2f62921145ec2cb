"""Writes and reads the weights of a saved dictionary, completely or only some rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsedict.storage._json import StorageError
from sparsedict.storage._regular_file import regular_file

WEIGHTS = "dictionary.safetensors"

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """Shape and type of a tensor in a file."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def stored_tensors(folder: Path, digest: str) -> dict[str, StoredTensor]:
    """Returns the shapes and types of the stored weights by name, without reading the weights.

    Raises:
        FileNotFoundError: If the file is missing.
        StorageError: If the file is truncated or damaged, or doesn't match the description.
    """
    with _opened(folder, digest, "cpu") as (file, stored):
        slices = {name: stored.get_slice(name) for name in names_in(stored)}
        return {
            name: StoredTensor(tuple(part.get_shape()), _dtype(file, name, part.get_dtype()))
            for name, part in slices.items()
        }


def read_weights(
    folder: Path,
    digest: str,
    device: torch.device | str | None = None,
    *,
    rows: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """Returns the stored weights by name, each with its own memory.

    Args:
        folder: Folder of the dictionary.
        digest: Digest of the weights in the description.
        device: Device of the weights; the CPU by default.
        rows: Rows to read from some tensors, by name. No other rows of these are read.

    Raises:
        FileNotFoundError: If the file is missing.
        StorageError: If the file is truncated or damaged, or doesn't match the description.
    """
    with _opened(folder, digest, str(device or "cpu")) as (_, stored):
        weights: dict[str, Tensor] = {}
        for name in names_in(stored):
            if name not in rows:
                # Copied, since the memory map of the file would otherwise stay open as long as the weights exist.
                weights[name] = stored.get_tensor(name).clone()
            else:
                part = stored.get_slice(name)
                # Slicing creates tensors on the default device, which may be the meta device.
                with torch.device("cpu"):
                    weights[name] = torch.cat([part[low:high] for low, high in _runs(rows[name])])
        return weights


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Splits rows into runs that are contiguous in the file."""
    if not rows:
        return iter([(0, 0)])
    cuts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(rows)) if b != a + 1), len(rows)]
    return ((rows[low], rows[high - 1] + 1) for low, high in pairwise(cuts))


@contextmanager
def _opened(folder: Path, digest: str, device: str) -> Iterator[tuple[Path, Any]]:
    file = regular_file(folder, f"{WEIGHTS}.{digest}") or regular_file(folder, WEIGHTS)
    if file is None:
        raise FileNotFoundError(f"{folder} must contain the weights of the dictionary, but {WEIGHTS} is missing.")
    try:
        stored = open_tensors(file, device)
    except FileNotFoundError:  # a writer has just renamed it
        file = folder / WEIGHTS
        stored = open_tensors(file, device)
    with stored as handle:
        if (handle.metadata() or {}).get("digest") != digest:
            raise StorageError(f"{file} doesn't match the dictionary.json in its folder: their digests differ.")
        try:
            yield file, handle
        except SafetensorError as error:
            raise StorageError(f"{file} is broken: {error}.") from None


def open_tensors(file: Path, device: str) -> Any:
    """Opens a safetensors file as a context manager."""
    try:
        return safe_open(file, framework="pt", device=device)
    except SafetensorError as error:
        raise StorageError(f"{file} is truncated or isn't a safetensors file{looks_like(file)}: {error}.") from None


def names_in(stored: Any) -> list[str]:
    """Returns the names of the tensors in an open file, which isn't a mapping and can't be iterated."""
    return list(stored.keys())


def looks_like(file: Path) -> str:
    """Returns a guess about the type of an invalid file, for error messages."""
    with file.open("rb") as stream:
        start = stream.read(4)
    if not start:
        return ", since it is empty"
    if start[:1] == b"\x80":
        return " but a pickle, which could run code and isn't opened"
    if start == b"vers":
        return " but a Git LFS pointer: the file itself wasn't downloaded"
    return " but a zip file, such as PyTorch's, which isn't opened" if start == b"PK\x03\x04" else ""


def _dtype(file: Path, name: str, code: str) -> torch.dtype:
    if code not in _DTYPES:
        raise StorageError(f"{file}: {name[:80]!r} must have the type of a dictionary's weights, got {code}.")
    return _DTYPES[code]


def write_tensors(file: Path, tensors: dict[str, Tensor], digest: str) -> None:
    """Writes tensors with their digest to a new file."""
    save_tensors(file, tensors, {"digest": digest})


def save_tensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a new safetensors file.

    Raises:
        OSError: If the file can't be written, such as on a full disk.
    """
    file.touch()
    mode = file.stat().st_mode
    try:
        save_file(tensors, file, metadata=metadata)
        file.chmod(mode)  # with the usual permissions of new files instead of owner-only
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        message = f"The weights could not be written to {file.parent}: {error}."
        raise (OSError(int(found[1]), message) if found else OSError(message)) from None


def own_memory(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies tensors to the CPU, so that tensors that share memory are each written in full."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, weight in weights.items():
        tensor = weight.detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return tensors


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of names, types, shapes and content of tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_finite(weights: Mapping[str, Tensor], source: str) -> None:
    """Checks that learned weights are finite.

    The state of an activation may be infinite: the logarithm of a zero threshold is, and a latent may be switched off.

    Raises:
        StorageError: If weights are NaN or infinite. The error names them, and the number of such entries.
    """
    for name, weight in weights.items():
        value = weight if weight.dtype.itemsize > 1 else weight.float()
        bad = value.isnan() if name.startswith("activation_state.") else ~value.isfinite()
        if bool(bad.any()):
            raise StorageError(
                f"{source} must have finite weights, but {int(bad.sum()):,} of {weight.numel():,} entries of `{name}` "
                "are NaN or infinite. Training diverged, or the file is damaged."
            )
