"""Rows from a model: activations of its sites fill a buffer, which is read in random order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from sparsedict.batches import ROLES, Activations, point_name
from sparsedict.data._row_source import BEGINNING, Chunk, Position, RowSource
from sparsedict.data._site_capture import SiteCapture
from sparsedict.data._site_metadata import site_metadata
from sparsedict.data._tokens import Block, BlockSize, RowArray, TokenSource
from sparsedict.seeds import permutation
from sparsedict.sites.models import check_ids, vocabulary

Mix = Literal["tokens", "sequences"]
"""The units that are shuffled in the buffer: single tokens, or whole sequences."""

_SEQUENCES, _ROWS = 0, 1
"""Keys that separate the random generators of the two permutations."""


class ModelRows(RowSource):
    """Rows from a model. A buffer is filled, read in random order until it is empty, and filled again.

    If the source has random access, each pass takes sequences (or documents) in a new order. The buffer then mixes the
    positions of sequences. If a whole pass fits into the buffer, the model runs only once.

    With ``mix="sequences"``, the sequences of the buffer are returned in random order, with their positions in order.

    Refilling a half-empty buffer would mix as well as a buffer of 1.5 times the size (the probability that two rows of
    a batch come from the same sequence falls by a third). But some rows would then stay in the buffer for many refills,
    so that resuming would require stored activations, or computing many buffers again. Emptying the buffer completely
    requires computing a single buffer again.
    """

    def __init__(
        self,
        capture: SiteCapture,
        tokens: TokenSource,
        *,
        buffer_size: int,
        block_size: BlockSize,
        seed: int,
        mix: Mix = "tokens",
    ) -> None:
        self.points = capture.points
        self.shared = {
            point_name(name, "outputs"): point_name(name, "inputs")
            for name, site in capture.sites.items()
            if site.reads == site.writes
        }
        self.origin = tokens.origin if mix == "tokens" else f"{tokens.origin}, whole sequences"
        self.replays = not tokens.seeks
        self.metadata = {name: site_metadata(site) for name, site in capture.sites.items()}
        self._capture = capture
        self._tokens = tokens
        self._seed = seed
        self._block_size = block_size
        self._vocabulary = vocabulary(capture.model)
        n_positions = tokens.n_positions
        self._fits = n_positions is not None and n_positions <= buffer_size
        self._capacity = buffer_size if n_positions is None else min(buffer_size, n_positions)
        # Chunks of equal size mix better than full chunks and a small last one.
        n_chunks = 1 if n_positions is None else -(-n_positions // buffer_size)
        self._target = self._capacity if n_positions is None else -(-n_positions // n_chunks)
        self._kept_of_shape: dict[torch.Size, Tensor | None] = {}
        self._buffer: Activations | None = None
        self._whole: Chunk | None = None
        self._mix = mix
        self._n_rows_of: list[int] = []

    def chunks(self, epoch: int, start: Position, max_rows: int | None = None) -> Iterator[Chunk]:
        if self._fits and start == BEGINNING and not (epoch == 0 and self._is_part(max_rows)):
            return self._from_memory(epoch)
        return self._computed(epoch, start, (self._seed, epoch, _SEQUENCES) if self._tokens.seeks else None, max_rows)

    def _is_part(self, max_rows: int | None) -> bool:
        """Whether a number of rows is less than a pass."""
        if max_rows is not None and self.n_tokens is None:
            self.n_tokens = self.count()
        return max_rows is not None and self.n_tokens is not None and max_rows < self.n_tokens

    def _from_memory(self, epoch: int) -> Iterator[Chunk]:
        if self._whole is None:
            self._whole = next(self._computed(0, BEGINNING, None, None), None)
        if self._whole is not None:
            whole = self._whole
            yield self._chunk(whole.activations, epoch, BEGINNING, whole.end)

    def _computed(
        self, epoch: int, start: Position, order: tuple[int, int, int] | None, max_rows: int | None
    ) -> Iterator[Chunk]:
        blocks = self._tokens.blocks(order, epoch, start, self._block_size)
        block = next(blocks, None)
        while block is not None:
            n_rows, n_positions, end = 0, 0, start
            self._n_rows_of = []
            bad: list[Tensor] = []
            with self._capture.evaluating():
                while block is not None and n_rows + block.tokens.numel() <= self._capacity:
                    n_rows = self._append(block, n_rows, bad)
                    n_positions += block.tokens.numel()
                    end = block.end
                    block = next(blocks, None)
                    if n_positions >= self._target and self._tokens.n_positions is not None:
                        break
                    if max_rows is not None and n_rows >= max_rows:
                        break
            if bad and bool(torch.stack(bad).any()):
                self._raise_if_not_finite(0, n_rows)
            if n_rows and self._buffer is not None:
                yield self._chunk(self._buffer.rows(slice(0, n_rows)), epoch, start, end)
            start = end
            max_rows = max_rows - n_rows if max_rows is not None and max_rows > n_rows else None

    def _chunk(self, held: Activations, epoch: int, start: Position, end: Position) -> Chunk:
        key = (self._seed, epoch, _ROWS, *start)
        device = next(iter(held.values())).device
        if self._mix == "tokens":
            return Chunk(held, permutation(held.n_tokens, *key).to(device), start, end)
        order = permutation(len(self._n_rows_of), *key).tolist()
        rows = torch.arange(held.n_tokens, device="cpu").split(self._n_rows_of)
        cuts = list(accumulate(self._n_rows_of[index] for index in order))
        return Chunk(held, torch.cat([rows[index] for index in order]).to(device), start, end, cuts)

    def _append(self, block: Block, n_rows: int, bad: list[Tensor]) -> int:
        """Captures a block, copies its kept rows into the buffer, and returns the new number of rows in the buffer."""
        check_ids(block.tokens, self._vocabulary, block.numbers)
        kept = self._kept_indices(block)
        if kept is not None and not len(kept):
            return n_rows
        captured = self._capture.run(block)
        if self._buffer is None:
            self._buffer = captured.map(self._allocated)
        stop = n_rows + (block.tokens.numel() if kept is None else len(kept))
        self._n_rows_of += _rows_of_sequences(block, kept)
        targets, values = self._buffer.distinct(), captured.distinct()
        for name in targets:
            _put(targets[name][n_rows:stop], values[name], kept)
        # Checking sums needs a single pass over the rows, and no temporary tensor of their size.
        sums = [
            target[n_rows:stop].sum(dtype=torch.float32) for target in targets.values() if target.is_floating_point()
        ]
        wrong = ~torch.stack(sums).sum().isfinite()
        if wrong.device.type != "cpu":
            # Checked once per filling of the buffer, to avoid synchronising with the device for each block.
            bad.append(wrong)
        elif bool(wrong):
            self._raise_if_not_finite(n_rows, stop)
        return stop

    def _kept_indices(self, block: Block) -> Tensor | None:
        if block.attention_mask is not None or self._capture.by_token:
            return self._capture.kept(block)
        # The kept positions depend only on the shape.
        if block.tokens.shape not in self._kept_of_shape:
            self._kept_of_shape = {block.tokens.shape: self._capture.kept(block)}
        return self._kept_of_shape[block.tokens.shape]

    def _allocated(self, column: Tensor) -> Tensor:
        capture = self._capture
        dtype = capture.dtype if column.is_floating_point() else None
        device = capture.device or column.device
        return torch.empty(self._capacity, *column.shape[1:], dtype=dtype or column.dtype, device=device)

    def _raise_if_not_finite(self, start: int, stop: int) -> None:
        """Raises an error that names the site if rows of the buffer aren't finite. A sum alone may have overflowed."""
        assert self._buffer is not None
        for name, site in self._capture.sites.items():
            for role in ROLES:
                rows = self._buffer.get(point_name(name, role))
                rows = None if rows is None else rows[start:stop]
                n_bad = 0 if rows is None else int((~rows.isfinite()).sum())
                if rows is not None and n_bad:
                    raise ValueError(
                        f"{site!r}{f' (named {name!r})' if name else ''} must have finite activations, got "
                        f"{n_bad:,} NaN or infinite entries of {rows.numel():,} in its {role}, stored as {rows.dtype}. "
                        "Check the model's weights and the range of that dtype."
                    )

    def count(self) -> int | None:
        """Counts the kept tokens of a pass by reading an array of tokens; returns ``None`` for other sources."""
        if not isinstance(self._tokens, RowArray):
            return None
        total = 0
        for block in self._tokens.all():
            kept = self._capture.kept(block)
            total += block.tokens.numel() if kept is None else len(kept)
        return total


def _rows_of_sequences(block: Block, kept: Tensor | None) -> list[int]:
    """Returns the number of kept rows of each sequence in a block, without sequences that have none."""
    n_sequences, width = block.tokens.shape
    if kept is None:
        return [width] * n_sequences
    return [n for n in torch.bincount(kept // width, minlength=n_sequences).tolist() if n]


def _put(rows: Tensor, value: Tensor, kept: Tensor | None) -> None:
    """Copies kept rows into the buffer."""
    if kept is None:
        rows.copy_(value)
        return
    kept = kept.to(value.device)
    if value.dtype == rows.dtype and value.device == rows.device:
        torch.index_select(value, 0, kept, out=rows)
    else:
        rows.copy_(value.index_select(0, kept))
