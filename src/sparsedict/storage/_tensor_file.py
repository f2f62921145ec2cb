"""Writes tensors to a safetensors file one by one, without copying all of them in memory."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from sparsedict.storage._json import StorageError
from sparsedict.storage._weights import names_in, open_tensors

PIECE = 4 * 2**20
"""Number of bytes that are hashed and written together, so that they stay in the processor's caches."""

_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.bool: "BOOL",
}


def write_tensor_file(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes a safetensors file, copying one tensor at a time to the CPU, and returns its SHA-256.

    Raises:
        TypeError: If the format doesn't support the type of a tensor.
        OSError: If the file can't be written.
    """
    # Wide types come first, as in the reference implementation, so that every tensor is aligned to its item size.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    digest = hashlib.sha256()
    with file.open("wb") as stream:
        for piece in (_header(names, tensors), *names):
            content = memoryview(piece) if isinstance(piece, bytes) else _content(tensors[piece])
            for start in range(0, len(content), PIECE):
                part = content[start : start + PIECE]
                digest.update(part)
                stream.write(part)
    return digest.hexdigest()


def read_tensor_file(file: Path, digest: str) -> dict[str, Tensor]:
    """Reads the tensors by name to the CPU, each with its own memory.

    Raises:
        FileNotFoundError: If there is no such file.
        StorageError: If the file has another digest.
    """
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(PIECE):
            found.update(piece)
    if found.hexdigest() != digest:
        raise StorageError(
            f"{file} is damaged: its SHA-256 differs from that of the written file. It may be truncated. Restore it."
        )
    with open_tensors(file, "cpu") as stored:
        try:
            # Copied, to be aligned like new tensors: kernels may round differently for other alignments.
            return {name: stored.get_tensor(name).clone() for name in names_in(stored)}
        except SafetensorError as error:
            raise StorageError(f"{file} is damaged: {error}. Restore it, or save it again.") from None


def _header(names: list[str], tensors: Mapping[str, Tensor]) -> bytes:
    entries, start = {}, 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in _CODES:
            raise TypeError(
                f"`{name}` must have a type that safetensors supports, got {tensor.dtype}. Convert it first."
            )
        end = start + tensor.numel() * tensor.dtype.itemsize
        entries[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    encoded = json.dumps(entries, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded


def _content(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
