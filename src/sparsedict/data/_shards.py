"""One file of stored activations: safetensors, with a checksum for every block of rows."""

from __future__ import annotations

import hashlib
import json
import mmap
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sparsedict.storage import StorageError, parse_json, regular_file, replace_file

BLOCK = 256
"""Rows that are read, and checked, together."""

CHECKSUMS = "checksums"
METADATA = "sparsedict"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_MAX_HEADER = 2**20
_RAW = {4: np.uint32, 2: np.uint16}
"""NumPy's type of an entry's bits, by its size: it has no bfloat16."""


def shard_name(index: int) -> str:
    return f"activations-{index:06d}.safetensors"


def raw(rows: Tensor) -> NDArray[Any]:
    """Returns rows on the CPU as their bits, in the same memory."""
    return rows.view({4: torch.int32, 2: torch.int16}[rows.dtype.itemsize]).numpy().view(_RAW[rows.dtype.itemsize])


def checksums(columns: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Returns CRC-32 of each block of each column, ``[n_blocks, n_columns]``."""
    n_rows = len(columns[0])
    return np.array(
        [[zlib.crc32(column[low : low + BLOCK].data) for column in columns] for low in range(0, n_rows, BLOCK)],
        dtype=np.int64,
    )


def digest_of(checks: NDArray[np.int64], n_rows: int) -> str:
    """Returns what names the content of a shard."""
    return hashlib.sha256(f"{n_rows};".encode() + checks.tobytes()).hexdigest()


def write_shard(file: Path, names: Sequence[str], columns: Sequence[Tensor], notes: Mapping[str, Any]) -> str:
    """Writes a shard, as a whole or not at all, and returns its digest.

    Args:
        file: Where to.
        names: Of the columns.
        columns: ``[n_rows, width]`` each, contiguous, on the CPU.
        notes: What to keep beside them, in plain values that JSON has.

    Raises:
        OSError: If it can't be written, such as on a full disk.
    """
    checks = checksums([raw(column) for column in columns])
    digest = digest_of(checks, len(columns[0]))
    tensors = {**dict(zip(names, columns, strict=True)), CHECKSUMS: torch.from_numpy(checks)}
    # One entry, for several would be written in an order that differs from run to run.
    metadata = {METADATA: json.dumps({"digest": digest, "notes": notes})}

    def write(beside: Path) -> None:
        try:
            save_file(tensors, beside, metadata=metadata)
        except SafetensorError as error:
            raise OSError(f"Activations could not be written to {file}: {error}.") from None

    replace_file(file, write)
    return digest


@dataclass(frozen=True)
class ShardHeader:
    """What the beginning of a shard says.

    Attributes:
        file: The shard.
        n_rows: Its rows.
        digest: What names its content.
        notes: What its writer kept beside them.
        offsets: Where each column begins, in bytes from the beginning of the file; the checksums are last.
    """

    file: Path
    n_rows: int
    digest: str
    notes: dict[str, Any]
    offsets: tuple[int, ...]

    @property
    def n_blocks(self) -> int:
        return -(-self.n_rows // BLOCK)


def read_header(folder: Path, name: str, columns: Sequence[tuple[str, int]], dtype: torch.dtype) -> ShardHeader:
    """Reads and checks the beginning of a shard.

    Args:
        folder: Of the store.
        name: Of the file.
        columns: Names and widths of the columns that it must have.
        dtype: Their type.

    Raises:
        StorageError: If the file is missing, truncated or broken, or has other columns.
    """
    file = regular_file(folder, name)
    if file is None:
        raise StorageError(f"{folder} lacks the shard {name}: it was deleted, or wasn't copied with the others.")
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise StorageError(f"{file} is truncated or isn't a safetensors file.")
        document = parse_json(stream.read(length), str(file))
    try:
        metadata = document["__metadata__"]
        n_rows = document[columns[0][0]]["shape"][0]
        code = {found: code for code, found in DTYPES.items()}[dtype]
        shapes = [(column, code, [n_rows, width]) for column, width in columns]
        shapes.append((CHECKSUMS, "I64", [-(-n_rows // BLOCK), len(columns)]))
        spans = [document[column]["data_offsets"] for column, _, _ in shapes]
        found = [(column, document[column]["dtype"], document[column]["shape"]) for column, _, _ in shapes]
        wanted = [dtype.itemsize * n_rows * width for _, width in columns] + [8 * len(columns) * -(-n_rows // BLOCK)]
        end = 8 + length + max(stop for _, stop in spans)
        sizes = [stop - start for start, stop in spans]
        fits = found == shapes and sizes == wanted and all(start >= 0 for start, _ in spans)
        said = parse_json(metadata[METADATA].encode(), f"{file}, `{METADATA}`")
        notes, digest = said["notes"], str(said["digest"])
        is_ours = isinstance(notes, dict) and document.keys() == {"__metadata__", *(name for name, _, _ in shapes)}
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{file} isn't a shard of this store: {type(error).__name__} in its header.") from None
    if not (fits and is_ours):
        raise StorageError(f"{file} isn't a shard of this store: its columns are {str(found)[:200]}.")
    if size != end:
        raise StorageError(f"{file} must be of {end:,} bytes by its header, but is of {size:,}: it is truncated.")
    return ShardHeader(file, n_rows, digest, notes, tuple(8 + length + start for start, _ in spans))


class MappedShard:
    """A shard in memory as the system sees fit to keep it there.

    Args:
        header: Of the shard.
        widths: Of its columns.
        dtype: Of their entries.

    Raises:
        StorageError: If its checksums aren't those that its digest names.
    """

    def __init__(self, header: ShardHeader, widths: Sequence[int], dtype: torch.dtype) -> None:
        self.header = header
        with header.file.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._map) < header.offsets[-1]:
            raise StorageError(f"{header.file} is truncated.")
        n_rows = header.n_rows
        kind = _RAW[dtype.itemsize]
        self.columns = [
            np.frombuffer(self._map, kind, n_rows * width, offset).reshape(n_rows, width)
            for width, offset in zip(widths, header.offsets[:-1], strict=True)
        ]
        n_checks = header.n_blocks * len(widths)
        checks = np.frombuffer(self._map, np.int64, n_checks, header.offsets[-1])
        self._checks = checks.reshape(header.n_blocks, len(widths))
        if digest_of(self._checks, n_rows) != header.digest:
            raise StorageError(f"{header.file} is damaged: its checksums aren't those that were written.")

    def check(self, block: int) -> None:
        """Compares the content of a block with its checksums.

        Raises:
            StorageError: If it is another.
        """
        rows = slice(block * BLOCK, (block + 1) * BLOCK)
        for index, column in enumerate(self.columns):
            if zlib.crc32(column[rows].data) != int(self._checks[block, index]):
                first, last = block * BLOCK, min((block + 1) * BLOCK, self.header.n_rows) - 1
                raise StorageError(
                    f"{self.header.file} is damaged: the content of rows {first:,} to {last:,} isn't what was written. "
                    "Copy the file anew, or delete it and write the store again: no other is harvested for it."
                )

    def expect(self, block: int) -> None:
        """Tells the system that a block will be read soon, so that the disk can begin."""
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        for column, offset in zip(self.columns, self.header.offsets, strict=False):
            row_bytes = column.shape[1] * column.itemsize
            start = offset + block * BLOCK * row_bytes
            aligned = start - start % mmap.PAGESIZE
            stop = min(start + BLOCK * row_bytes, len(self._map))
            self._map.madvise(mmap.MADV_WILLNEED, aligned, stop - aligned)
