"""`ActivationStore`, activations on disk for any number of training runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from sparsedict import checks
from sparsedict.data._columns import decoded_dtype
from sparsedict.data._source import ActivationSource
from sparsedict.data._store_description import FILE, StoreDescription
from sparsedict.data._stored_rows import Shards, StoredRows
from sparsedict.data._user_data import DEFAULT_BATCH_SIZE, DEFAULT_SEED
from sparsedict.progress import progress_bar
from sparsedict.storage import StorageError

BUFFER_BYTES = 2**28


class ActivationStore(ActivationSource):
    """Batches of activations that `ActivationStream.save_to` wrote. Each pass is shuffled in bounded memory.

    A store is used like a stream: iterating makes one pass, ``fit`` makes further passes, and ``state_dict`` is a few
    integers. After resuming from a state, the batches are bit-identical on any machine.

    The files are read in blocks of 256 tokens, in a random order over the whole store. The blocks fill a buffer, whose
    rows are returned in random order until it is empty. Two tokens of a batch come from the same block with probability
    ``255 / (buffer_size - 1)``, compared to ``255 / (n_tokens - 1)`` for a shuffle of all tokens. The tokens within a
    block were already shuffled by the stream. Each block is verified by its checksum when it is first read.

    Args:
        folder: The folder of `ActivationStream.save_to`.
        batch_size: Tokens per batch.
        seed: Seed of the shuffling.
        buffer_size: Number of tokens in the buffer; by default 256 MiB of them, and at least four batches. A store
            that fits into the buffer is read only once per iterator.
        dtype: Type of the activations; by default the stored type, and float32 for int8.
        device: Device of the batches; by default the CPU.
        verify: Whether to verify blocks by their checksums.

    Raises:
        FileNotFoundError: If there is no store.
        StorageError: If a file is damaged, missing or from another store, or the store is incomplete; while iterating,
            if the content of a block differs from the written content. It is a ``ValueError``.

    Example:
        >>> import tempfile, torch
        >>> from sparsedict.data import ActivationStream
        >>> from sparsedict.sites import Site
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 3))
        >>> stream = ActivationStream(Site(model, "1"), torch.randint(10, (5, 8)), batch_size=16)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = stream.save_to(folder, progress=False)
        ...     again = ActivationStore(folder, batch_size=20)
        ...     [tuple(batch.outputs.shape) for batch in again]
        [(20, 3), (20, 3)]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        seed: int = DEFAULT_SEED,
        buffer_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        verify: bool = True,
    ) -> None:
        super().__init__(batch_size, seed, dtype)
        self.folder: Path = checks.path("folder", folder)
        self._description = _complete(self.folder)
        self.bytes_per_token: int = self._description.bytes_per_token
        self.buffer_size: int = self._checked_buffer(
            buffer_size, BUFFER_BYTES // self._description.buffer_bytes_per_token, self.n_tokens
        )
        self._shards = Shards(self.folder, self._description, checks.boolean("verify", verify))
        self._dtype, self._device = dtype, checks.device("device", device)

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the sites; ``None`` for one site without a name."""
        return tuple(name for name in self._description.sites if name) or None

    @property
    def sites(self) -> dict[str, dict[str, Any]]:
        """Model, path and widths of each site by name. A single site may have an empty name."""
        return {name: dict(site) for name, site in self._description.sites.items()}

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """``d_in`` and ``d_out`` of each site by name. A single site may have an empty name."""
        widths = self._description.widths
        return {name: (widths[s["inputs"]], widths[s["outputs"]]) for name, s in self._description.sites.items()}

    @property
    def d_in(self) -> int:
        """Width of the inputs, for a store with a single site."""
        return self._only_widths("d_in")[0]

    @property
    def d_out(self) -> int:
        """Width of the outputs, for a store with a single site."""
        return self._only_widths("d_out")[1]

    @property
    def n_tokens(self) -> int:
        """Number of tokens of one pass."""
        return self._description.n_tokens

    @property
    def n_batches(self) -> int:
        """Number of batches of one pass."""
        return -(-self.n_tokens // self.batch_size)

    @property
    def n_bytes(self) -> int:
        """Size of the activations on disk, in bytes."""
        return self.n_tokens * self.bytes_per_token

    @property
    def dtype(self) -> torch.dtype:
        """Type of the activations in batches."""
        return self._dtype or decoded_dtype(self._description.dtype)

    def __repr__(self) -> str:
        held = f"{self.n_tokens:,} tokens of {len(self._description.sites)} sites, {self.n_bytes / 2**20:,.1f} MiB"
        return (
            f"ActivationStore({str(self.folder)!r}, {held} in {self._description.n_shards:,} shards, "
            f"batch_size={self.batch_size:,}, seed={self.seed}, buffer_size={self.buffer_size:,})"
        )

    def _rows(self) -> StoredRows:
        return StoredRows(self._shards, self.seed, self.buffer_size, self.dtype, self._device)

    def verify(self, *, progress: bool = False) -> None:
        """Reads the whole store and verifies it by its checksums.

        Raises:
            StorageError: If content differs from the written content. The error names the shard and the rows.
        """
        progress = checks.boolean("progress", progress)
        n_blocks = self._shards.n_blocks
        with progress_bar("verify", total=n_blocks, unit="block", shown=progress) as bar:
            for index in range(n_blocks):
                shard, block = self._shards.locate(index)
                self._shards.mapped(shard).check(block)
                bar.update(1)

    def _only_widths(self, name: str) -> tuple[int, int]:
        if len(self.widths) > 1:
            raise ValueError(f"`{name}` needs a store with a single site, got one with several. Use `widths`.")
        return next(iter(self.widths.values()))


def _complete(folder: Path) -> StoreDescription:
    description = StoreDescription.read(folder) if folder.is_dir() else None
    if description is None:
        raise FileNotFoundError(f"`folder` must contain stored activations, but {folder / FILE} doesn't exist.")
    if description.shards is None:
        raise StorageError(
            f"`folder` must contain a complete store, but writing to {folder} was interrupted. Call `save_to` again "
            "with the same arguments to continue it."
        )
    return description
