"""Rows of a store: blocks of its shards, shuffled for each pass."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsedict.batches import Activations
from sparsedict.data._columns import PER_TOKEN, Decoder
from sparsedict.data._row_source import BEGINNING, Chunk, Position, RowSource
from sparsedict.data._shards import BLOCK, MappedShard, ShardHeader, read_header
from sparsedict.data._store_description import FILE, StoreDescription
from sparsedict.seeds import permutation
from sparsedict.storage import StorageError

MAX_MAPPED = 256
"""Largest number of shards that are mapped at a time. Each keeps a file open."""

_BLOCKS, _ROWS = 0, 1
"""Keys that separate the random generators of the two permutations."""


class Shards:
    """The shards of a complete store, opened on demand.

    Args:
        folder: Folder of the store.
        description: Description of the store.
        verify: Whether to verify blocks by their checksums when they are first read.

    Raises:
        StorageError: If a file is missing, damaged or from another store.
    """

    def __init__(self, folder: Path, description: StoreDescription, verify: bool) -> None:
        self.description = description
        self._headers: list[ShardHeader] = []
        left = description.n_tokens
        for name, digest in zip(description.names(), description.shards or (), strict=True):
            header = read_header(folder, name, description.columns)
            if header.n_rows != min(left, description.tokens_per_shard) or header.digest != digest:
                raise StorageError(f"{header.file} is a shard of another store: its digest isn't in {FILE}.")
            left -= header.n_rows
            self._headers.append(header)
        self._first = np.cumsum([0, *(header.n_blocks for header in self._headers)])
        self._mapped: OrderedDict[int, MappedShard] = OrderedDict()
        self._unverified = np.full(self.n_blocks, verify)

    @property
    def n_blocks(self) -> int:
        return int(self._first[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Returns the shard of a block, and the index of the block in it."""
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        return shard, index - int(self._first[shard])

    def mapped(self, shard: int) -> MappedShard:
        """Returns a memory-mapped shard."""
        if shard in self._mapped:
            self._mapped.move_to_end(shard)
        else:
            if len(self._mapped) >= MAX_MAPPED:
                self._mapped.popitem(last=False)
            self._mapped[shard] = MappedShard(self._headers[shard], self.description.columns)
        return self._mapped[shard]

    def rows(self, index: int) -> list[NDArray[Any]]:
        """Returns the rows of a block, by column."""
        shard, block = self.locate(index)
        mapped = self.mapped(shard)
        if self._unverified[index]:
            mapped.check(block)
            self._unverified[index] = False
        return mapped.rows(block)

    def expect(self, indices: list[int]) -> None:
        """Advises the operating system that blocks will be read soon."""
        for shard, block in map(self.locate, indices):
            self.mapped(shard).expect(block)


METADATA_KEYS = ("model", "model_class", "architecture", "site")
"""Keys of a site's metadata that training records in a dictionary."""


class StoredRows(RowSource):
    """Rows from a store. Blocks in random order fill a buffer, which is read in random order until it is empty."""

    def __init__(
        self, shards: Shards, seed: int, buffer_size: int, dtype: torch.dtype, device: torch.device | None
    ) -> None:
        description = shards.description
        self._columns_of = description.points
        self.points = tuple(self._columns_of)
        first: dict[int, str] = {}
        owners = {point: first.setdefault(column, point) for point, column in self._columns_of.items()}
        self.shared = {point: owner for point, owner in owners.items() if point != owner}
        self.n_tokens = description.n_tokens
        self.metadata = {
            name: {fact: str(site[fact]) for fact in METADATA_KEYS if fact in site}
            for name, site in description.sites.items()
        }
        self.origin = f"{self.n_tokens:,} stored tokens ({description.origin}), shuffled anew for each pass"
        self._shards = shards
        self._seed = seed
        self._dtype, self._device = dtype, device
        # Chunks of equal size mix better than full chunks and a small last one.
        n_chunks = -(-shards.n_blocks // max(1, buffer_size // BLOCK))
        self._n_blocks = -(-shards.n_blocks // n_chunks)
        self._resident = n_chunks == 1
        self._decoder: Decoder | None = None
        self._is_filled = False

    def chunks(self, epoch: int, start: Position, max_rows: int | None = None) -> Iterator[Chunk]:
        if self._resident:
            return self._from_resident(epoch, start)
        return self._read(epoch, start)

    def _from_resident(self, epoch: int, start: Position) -> Iterator[Chunk]:
        if start != BEGINNING:
            return
        n_blocks = self._shards.n_blocks
        if not self._is_filled:
            self._fill(range(n_blocks))
            self._is_filled = True
        yield self._chunk(self.n_tokens or 0, epoch, start, (n_blocks, 0))

    def _read(self, epoch: int, start: Position) -> Iterator[Chunk]:
        order = permutation(self._shards.n_blocks, self._seed, epoch, _BLOCKS).tolist()
        self._shards.expect(order[start[0] : start[0] + self._n_blocks])
        for low in range(start[0], len(order), self._n_blocks):
            chosen = order[low : low + self._n_blocks]
            n_rows = self._fill(chosen)
            # The disk reads while the chunk is used in training.
            self._shards.expect(order[low + self._n_blocks : low + 2 * self._n_blocks])
            yield self._chunk(n_rows, epoch, (low, 0), (low + len(chosen), 0))

    def _fill(self, blocks: Iterable[int]) -> int:
        """Decodes blocks into the buffer, and returns their number of rows."""
        if self._decoder is None:
            description = self._shards.description
            self._decoder = Decoder(description.columns, min(self._n_blocks * BLOCK, description.n_tokens))
        row = 0
        for index in blocks:
            row = self._decoder.write(row, self._shards.rows(index))
        return row

    def _chunk(self, n_rows: int, epoch: int, start: Position, end: Position) -> Chunk:
        order = permutation(n_rows, self._seed, epoch, _ROWS, *start)
        assert self._decoder is not None  # filled before
        tensors = {name: tensor[:n_rows] for name, tensor in self._decoder.tensors.items()}
        names = [name for name, _ in self._shards.description.activations]
        held = Activations({point: tensors[names[index]] for point, index in self._columns_of.items()})
        held.tokens, held.positions = (tensors[name].squeeze(1) if name in tensors else None for name in PER_TOKEN)
        return Chunk(held, order, start, end)

    def finalize(self, batch: Activations) -> Activations:
        batch = batch.to(self._device, self._dtype)
        for name in PER_TOKEN:
            value = getattr(batch, name)
            setattr(batch, name, None if value is None else value.long())
        return batch
