"""A shard of stored activations: a safetensors file with a checksum for every block of rows."""

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

from sparsedict.data._columns import DTYPES, Column, raw, raw_type
from sparsedict.storage import StorageError, parse_json, regular_file, replace_file

BLOCK = 256
"""Number of rows that are read and checked together."""

CHECKSUMS = "checksums"
METADATA = "sparsedict"
_MAX_HEADER = 2**20


def shard_name(index: int) -> str:
    return f"activations-{index:06d}.safetensors"


def checksums(columns: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Returns the CRC-32 of each block of each column, ``[n_blocks, n_columns]``."""
    n_rows = len(columns[0])
    return np.array(
        [[zlib.crc32(column[low : low + BLOCK].data) for column in columns] for low in range(0, n_rows, BLOCK)],
        dtype=np.int64,
    )


def digest_of(checks: NDArray[np.int64], n_rows: int) -> str:
    """Returns a digest that identifies the content of a shard."""
    return hashlib.sha256(f"{n_rows};".encode() + checks.tobytes()).hexdigest()


def write_shard(file: Path, names: Sequence[str], columns: Sequence[Tensor], notes: Mapping[str, Any]) -> str:
    """Writes a shard atomically, and returns its digest.

    Args:
        file: The file to write.
        names: Names of the columns.
        columns: Columns ``[n_rows, width]``, contiguous, on the CPU.
        notes: Additional JSON values for the header.

    Raises:
        OSError: If the file can't be written, such as on a full disk.
    """
    checks = checksums([raw(column) for column in columns])
    digest = digest_of(checks, len(columns[0]))
    tensors = {**dict(zip(names, columns, strict=True)), CHECKSUMS: torch.from_numpy(checks)}
    # A single entry, because the order of several entries would differ between runs.
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
    """The header of a shard.

    Attributes:
        file: The shard.
        n_rows: Number of rows.
        digest: Digest that identifies the content.
        notes: Additional values.
        offsets: Offset of each column in bytes from the start of the file. The checksums come last.
    """

    file: Path
    n_rows: int
    digest: str
    notes: dict[str, Any]
    offsets: tuple[int, ...]

    @property
    def n_blocks(self) -> int:
        return -(-self.n_rows // BLOCK)


def read_header(folder: Path, name: str, columns: Sequence[Column]) -> ShardHeader:
    """Reads and checks the header of a shard.

    Args:
        folder: Folder of the store.
        name: Name of the file.
        columns: Required columns.

    Raises:
        StorageError: If the file is missing, truncated or damaged, or has other columns.
    """
    file = regular_file(folder, name)
    if file is None:
        raise StorageError(
            f"{folder} lacks the shard {name}. Restore the file, or write the store again with `save_to`."
        )
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise StorageError(f"{file} is truncated or isn't a safetensors file.")
        document = parse_json(stream.read(length), str(file))
    try:
        metadata = document["__metadata__"]
        n_rows = document[columns[0].name]["shape"][0]
        codes = {dtype: code for code, dtype in DTYPES.items()}
        shapes = [(column.name, codes[column.dtype], [n_rows, column.width]) for column in columns]
        shapes.append((CHECKSUMS, "I64", [-(-n_rows // BLOCK), len(columns)]))
        spans = [document[column]["data_offsets"] for column, _, _ in shapes]
        found = [(column, document[column]["dtype"], document[column]["shape"]) for column, _, _ in shapes]
        wanted = [n_rows * column.bytes_per_token for column in columns]
        wanted.append(8 * len(columns) * -(-n_rows // BLOCK))
        end = 8 + length + max(stop for _, stop in spans)
        sizes = [stop - start for start, stop in spans]
        fits = found == shapes and sizes == wanted and all(start >= 0 for start, _ in spans)
        stored = parse_json(metadata[METADATA].encode(), f"{file}, `{METADATA}`")
        notes, digest = stored["notes"], str(stored["digest"])
        is_ours = isinstance(notes, dict) and document.keys() == {"__metadata__", *(name for name, _, _ in shapes)}
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{file} isn't a shard of this store: {type(error).__name__} in its header.") from None
    if not (fits and is_ours):
        raise StorageError(f"{file} isn't a shard of this store: its columns are {str(found)[:200]}.")
    if size != end:
        raise StorageError(
            f"{file} must have {end:,} bytes according to its header, got {size:,}. The file is truncated."
        )
    return ShardHeader(file, n_rows, digest, notes, tuple(8 + length + start for start, _ in spans))


class MappedShard:
    """A memory-mapped shard.

    Args:
        header: Header of the shard.
        columns: Columns of the shard.

    Raises:
        StorageError: If the checksums don't match the digest.
    """

    def __init__(self, header: ShardHeader, columns: Sequence[Column]) -> None:
        self.header = header
        with header.file.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._map) < header.offsets[-1]:
            raise StorageError(f"{header.file} is truncated.")
        n_rows = header.n_rows
        self.columns = [
            np.frombuffer(self._map, raw_type(c.dtype), n_rows * c.width, offset).reshape(n_rows, c.width)
            for c, offset in zip(columns, header.offsets[:-1], strict=True)
        ]
        n_checks = header.n_blocks * len(columns)
        checks = np.frombuffer(self._map, np.int64, n_checks, header.offsets[-1])
        self._checks = checks.reshape(header.n_blocks, len(columns))
        if digest_of(self._checks, n_rows) != header.digest:
            raise StorageError(f"{header.file} is damaged: its checksums differ from the written ones.")

    def check(self, block: int) -> None:
        """Verifies the content of a block by its checksums.

        Raises:
            StorageError: If the content differs.
        """
        rows = slice(block * BLOCK, (block + 1) * BLOCK)
        for index, column in enumerate(self.columns):
            if zlib.crc32(column[rows].data) != int(self._checks[block, index]):
                first, last = block * BLOCK, min((block + 1) * BLOCK, self.header.n_rows) - 1
                raise StorageError(
                    f"{self.header.file} is damaged: the content of rows {first:,} to {last:,} differs from "
                    "the written content. Copy the file again, or delete it and call `save_to` again, which only "
                    "writes missing shards."
                )

    def rows(self, block: int) -> list[NDArray[Any]]:
        """Returns the rows of a block, by column."""
        return [column[block * BLOCK : (block + 1) * BLOCK] for column in self.columns]

    def expect(self, block: int) -> None:
        """Advises the operating system that a block will be read soon."""
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        for column, offset in zip(self.columns, self.header.offsets, strict=False):
            row_bytes = column.shape[1] * column.itemsize
            start = offset + block * BLOCK * row_bytes
            aligned = start - start % mmap.PAGESIZE
            stop = min(start + BLOCK * row_bytes, len(self._map))
            self._map.madvise(mmap.MADV_WILLNEED, aligned, stop - aligned)
