"""Rows from a model: activations of its sites fill a buffer, which is read in random order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from sparsedict.batches import ROLES, Activations, point_name
from sparsedict.data._divided_chunk import DividedChunk
from sparsedict.data._row_source import BEGINNING, Chunk, Position, RowSource
from sparsedict.data._site_capture import SiteCapture
from sparsedict.data._site_metadata import site_metadata
from sparsedict.data._tokens import Block, BlockSize, RowArray, TokenSource
from sparsedict.parallel import Alone, Parallel
from sparsedict.seeds import permutation
from sparsedict.sites.models import check_ids, described, vocabulary

Mix = Literal["tokens", "sequences"]
"""The units that are shuffled in the buffer: single tokens, or whole sequences."""

MAX_SHAPES = 4
"""Number of shapes of blocks whose kept positions are stored."""

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
        models = described({name: site.model for name, site in capture.sites.items()})
        self._vocabularies = {owner: vocabulary(model) for owner, model in models.items()}
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
        self._parallel: Parallel = Alone()
        self._n_own = self._n_sequences = 0
        self._n_rows_of: list[int] = []
        self._owners_of: list[Tensor] = []

    def divide(self, parallel: Parallel) -> None:
        self._parallel = parallel

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
            owners = whole.owners if isinstance(whole, DividedChunk) else None
            yield self._chunk(whole.activations, owners, epoch, BEGINNING, whole.end)

    def _computed(
        self, epoch: int, start: Position, order: tuple[int, int, int] | None, max_rows: int | None
    ) -> Iterator[Chunk]:
        blocks = self._tokens.blocks(order, epoch, start, self._block_size)
        block = next(blocks, None)
        while block is not None:
            # An error of the data or the model on one rank is an error of all ranks.
            block, n_rows, end = self._parallel.together(partial(self._fill, blocks, block, start, max_rows))
            if n_rows and self._buffer is not None:
                yield self._chunk(self._buffer.rows(slice(0, self._n_own)), self._owners(), epoch, start, end)
            start = end
            max_rows = max_rows - n_rows if max_rows is not None and max_rows > n_rows else None

    def _fill(
        self, blocks: Iterator[Block], block: Block | None, start: Position, max_rows: int | None
    ) -> tuple[Block | None, int, Position]:
        """Fills the buffer, and returns the next block, the number of rows over all ranks and the position."""
        n_rows, n_positions, end = 0, 0, start
        self._n_own, self._n_sequences = 0, 0
        self._n_rows_of, self._owners_of = [], []
        bad: list[Tensor] = []
        with self._capture.evaluating():
            while block is not None and n_rows + block.tokens.numel() <= self._capacity:
                n_rows += self._append(block, bad)
                n_positions += block.tokens.numel()
                end = block.end
                block = next(blocks, None)
                if n_positions >= self._target and self._tokens.n_positions is not None:
                    break
                if max_rows is not None and n_rows >= max_rows:
                    break
        if bad and bool(torch.stack(bad).any()):
            self._raise_if_not_finite(0, self._n_own)
        return block, n_rows, end

    def _owners(self) -> Tensor | None:
        return torch.cat(self._owners_of) if self._parallel.n_parts > 1 else None

    def _chunk(self, held: Activations, owners: Tensor | None, epoch: int, start: Position, end: Position) -> Chunk:
        key = (self._seed, epoch, _ROWS, *start)
        device = next(iter(held.values())).device
        n_rows, cuts = held.n_tokens if owners is None else len(owners), None
        if self._mix == "tokens":
            order = permutation(n_rows, *key).to(device)
        else:
            sequences = permutation(len(self._n_rows_of), *key).tolist()
            rows = torch.arange(n_rows, device="cpu").split(self._n_rows_of)
            cuts = list(accumulate(self._n_rows_of[index] for index in sequences))
            order = torch.cat([rows[index] for index in sequences]).to(device)
        if owners is None:
            return Chunk(held, order, start, end, cuts)
        return DividedChunk(held, order, start, end, cuts, owners=owners, parallel=self._parallel)

    def _append(self, block: Block, bad: list[Tensor]) -> int:
        """Copies the kept rows of a block into the buffer, and returns their number over all ranks."""
        for owner, n in self._vocabularies.items():
            check_ids(block.tokens, n, block.numbers, owner=owner)
        kept = self._kept_indices(block)
        if kept is not None and not len(kept):
            return 0
        n_kept = block.tokens.numel() if kept is None else len(kept)
        self._n_rows_of += _rows_of_sequences(block, kept)
        if self._parallel.n_parts == 1:
            self._capture_rows(block, kept, bad)
            return n_kept
        # The sequences of a chunk are dealt to the ranks in turn.
        parts = (self._n_sequences + torch.arange(len(block.tokens), device="cpu")) % self._parallel.n_parts
        self._n_sequences += len(block.tokens)
        rows = torch.arange(n_kept, device="cpu") if kept is None else kept.cpu()
        self._owners_of.append(parts[rows // block.tokens.shape[1]])
        own = _sequences(block, parts == self._parallel.part)
        kept = self._kept_indices(own) if len(own.tokens) else None
        if len(own.tokens) and (kept is None or len(kept)):
            self._capture_rows(own, kept, bad)
        elif self._buffer is None:
            # The shapes of activations must be known to receive rows.
            self._buffer = self._capture.run(_sequences(block, parts >= 0)).map(self._allocated)
        return n_kept

    def _capture_rows(self, block: Block, kept: Tensor | None, bad: list[Tensor]) -> None:
        """Runs the model on a block, and copies the kept rows into the buffer."""
        captured = self._capture.run(block)
        n_rows, stop = self._n_own, self._n_own + (block.tokens.numel() if kept is None else len(kept))
        if self._buffer is None:
            self._buffer = captured.map(self._allocated)
        if stop > self._buffer.n_tokens:
            self._buffer = Activations.cat([self._buffer, captured.map(self._allocated)])
        self._n_own = stop
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

    def _kept_indices(self, block: Block) -> Tensor | None:
        if block.attention_mask is not None or self._capture.by_token:
            return self._capture.kept(block)
        # The kept positions depend only on the shape.
        if block.tokens.shape not in self._kept_of_shape:
            if len(self._kept_of_shape) >= MAX_SHAPES:
                self._kept_of_shape.clear()
            self._kept_of_shape[block.tokens.shape] = self._capture.kept(block)
        return self._kept_of_shape[block.tokens.shape]

    def _allocated(self, column: Tensor) -> Tensor:
        capture = self._capture
        dtype = capture.dtype if column.is_floating_point() else None
        device = capture.device or column.device
        n_parts = self._parallel.n_parts
        size = self._capacity if n_parts == 1 else -(-self._capacity // n_parts) + self._block_size.limit // n_parts
        return torch.empty(size, *column.shape[1:], dtype=dtype or column.dtype, device=device)

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


def _sequences(block: Block, chosen: Tensor) -> Block:
    """Returns the chosen sequences of a block."""
    mask = None if block.attention_mask is None else block.attention_mask[chosen]
    numbers = [number for number, is_chosen in zip(block.numbers, chosen.tolist(), strict=True) if is_chosen]
    return replace(block, tokens=block.tokens[chosen], attention_mask=mask, numbers=numbers)


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
