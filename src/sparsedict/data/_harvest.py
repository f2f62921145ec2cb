"""Rows from a model: what its sites read and write fills a buffer, which is served in random order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from sparsedict.batches import ROLES, Activations, point_name
from sparsedict.data._batches import BEGINNING, Chunk, Position, RowSource
from sparsedict.data._harvester import Harvester
from sparsedict.data._site_metadata import site_metadata
from sparsedict.data._tokens import Block, BlockSize, RowArray, TokenSource
from sparsedict.seeds import permutation
from sparsedict.sites.models import check_ids, vocabulary

Mix = Literal["tokens", "sequences"]
"""What a batch is drawn from the buffer by: single tokens, or whole sequences."""

_SEQUENCES, _ROWS = 0, 1
"""What a permutation is of, so that the two draw from generators of their own."""


class HarvestedRows(RowSource):
    """Rows from a model: a buffer is filled, served in random order until it is empty, and filled again.

    Sequences (or documents) come in an order of each pass's own, where the source can be gone through in any order;
    the buffer then mixes the positions of sequences. A source that fits into the buffer is harvested once.

    With ``mix="sequences"`` the buffer's sequences are served in random order, the positions of each in their own.

    Filling again when half is served would mix as a buffer of 1.5 times the size does (the chance that two rows of a
    batch are of one sequence falls by a third). But then some rows outlive many fillings, and a place in the pass
    could be taken up again only by storing activations or by harvesting many buffers. Emptied each time, it takes one.
    """

    def __init__(
        self,
        harvester: Harvester,
        tokens: TokenSource,
        *,
        buffer_size: int,
        block_size: BlockSize,
        seed: int,
        mix: Mix = "tokens",
    ) -> None:
        self.points = harvester.points
        self.shared = {
            point_name(name, "outputs"): point_name(name, "inputs")
            for name, site in harvester.sites.items()
            if site.reads == site.writes
        }
        self.origin = tokens.origin if mix == "tokens" else f"{tokens.origin}, whole sequences"
        self.replays = not tokens.seeks
        self.metadata = {name: site_metadata(site) for name, site in harvester.sites.items()}
        self._harvester = harvester
        self._tokens = tokens
        self._seed = seed
        self._block_size = block_size
        self._vocabulary = vocabulary(harvester.model)
        n_positions = tokens.n_positions
        self._resident = n_positions is not None and n_positions <= buffer_size
        self._capacity = buffer_size if n_positions is None else min(buffer_size, n_positions)
        # Chunks of one size mix better than full ones with a small one at the end.
        n_chunks = 1 if n_positions is None else -(-n_positions // buffer_size)
        self._target = self._capacity if n_positions is None else -(-n_positions // n_chunks)
        self._kept_of_shape: dict[torch.Size, Tensor | None] = {}
        self._buffer: Activations | None = None
        self._whole: Chunk | None = None
        self._mix = mix
        self._n_rows_of: list[int] = []

    def chunks(self, epoch: int, start: Position, most: int | None = None) -> Iterator[Chunk]:
        if self._resident and start == BEGINNING and not (epoch == 0 and self._is_part(most)):
            return self._from_resident(epoch)
        return self._harvested(epoch, start, (self._seed, epoch, _SEQUENCES) if self._tokens.seeks else None, most)

    def _is_part(self, most: int | None) -> bool:
        """Whether so many rows are less than a pass."""
        if most is not None and self.n_tokens is None:
            self.n_tokens = self.count()
        return most is not None and self.n_tokens is not None and most < self.n_tokens

    def _from_resident(self, epoch: int) -> Iterator[Chunk]:
        if self._whole is None:
            self._whole = next(self._harvested(0, BEGINNING, None, None), None)
        if self._whole is not None:
            whole = self._whole
            yield self._chunk(whole.held, epoch, BEGINNING, whole.end)

    def _harvested(
        self, epoch: int, start: Position, order: tuple[int, int, int] | None, most: int | None
    ) -> Iterator[Chunk]:
        blocks = self._tokens.blocks(order, epoch, start, self._block_size)
        block = next(blocks, None)
        while block is not None:
            n_rows, n_positions, end = 0, 0, start
            self._n_rows_of = []
            bad: list[Tensor] = []
            with self._harvester.evaluating():
                while block is not None and n_rows + block.tokens.numel() <= self._capacity:
                    n_rows = self._append(block, n_rows, bad)
                    n_positions += block.tokens.numel()
                    end = block.end
                    block = next(blocks, None)
                    if n_positions >= self._target and self._tokens.n_positions is not None:
                        break
                    if most is not None and n_rows >= most:
                        break
            if bad and bool(torch.stack(bad).any()):
                self._raise_if_not_finite(0, n_rows)
            if n_rows and self._buffer is not None:
                yield self._chunk(self._buffer.rows(slice(0, n_rows)), epoch, start, end)
            start = end
            most = most - n_rows if most is not None and most > n_rows else None

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
        """Captures a block, copies its kept rows into the buffer, and returns how many rows the buffer then holds."""
        check_ids(block.tokens, self._vocabulary, block.numbers)
        kept = self._kept_indices(block)
        if kept is not None and not len(kept):
            return n_rows
        captured = self._harvester.capture(block)
        if self._buffer is None:
            self._buffer = captured.map(self._allocated)
        stop = n_rows + (block.tokens.numel() if kept is None else len(kept))
        self._n_rows_of += _rows_of_sequences(block, kept)
        targets, values = self._buffer.distinct(), captured.distinct()
        for name in targets:
            _put(targets[name][n_rows:stop], values[name], kept)
        # Sums are checked instead of entries: one pass over the rows, without another tensor of their size.
        sums = [
            target[n_rows:stop].sum(dtype=torch.float32) for target in targets.values() if target.is_floating_point()
        ]
        wrong = ~torch.stack(sums).sum().isfinite()
        if wrong.device.type != "cpu":
            # Read once for each filling of the buffer, for reading waits for the device.
            bad.append(wrong)
        elif bool(wrong):
            self._raise_if_not_finite(n_rows, stop)
        return stop

    def _kept_indices(self, block: Block) -> Tensor | None:
        if block.attention_mask is not None or self._harvester.by_token:
            return self._harvester.kept(block)
        # Then it is a matter of the shape alone.
        if block.tokens.shape not in self._kept_of_shape:
            self._kept_of_shape = {block.tokens.shape: self._harvester.kept(block)}
        return self._kept_of_shape[block.tokens.shape]

    def _allocated(self, column: Tensor) -> Tensor:
        harvester = self._harvester
        dtype = harvester.dtype if column.is_floating_point() else None
        device = harvester.device or column.device
        return torch.empty(self._capacity, *column.shape[1:], dtype=dtype or column.dtype, device=device)

    def _raise_if_not_finite(self, start: int, stop: int) -> None:
        """Raises if rows of the buffer aren't finite, naming the site. A sum may have overflowed by itself."""
        assert self._buffer is not None
        for name, site in self._harvester.sites.items():
            for role in ROLES:
                rows = self._buffer.get(point_name(name, role))
                rows = None if rows is None else rows[start:stop]
                n_bad = 0 if rows is None else int((~rows.isfinite()).sum())
                if rows is not None and n_bad:
                    raise ValueError(
                        f"{site!r}{f' (named {name!r})' if name else ''} must give finite activations, got "
                        f"{n_bad:,} NaN or infinite of {rows.numel():,} entries in its {role}, stored as {rows.dtype}. "
                        "Look at the model's weights and at the range of that dtype."
                    )

    def count(self) -> int | None:
        """Returns how many tokens a pass keeps, by going through an array of tokens; ``None`` for other sources."""
        if not isinstance(self._tokens, RowArray):
            return None
        total = 0
        for block in self._tokens.all():
            kept = self._harvester.kept(block)
            total += block.tokens.numel() if kept is None else len(kept)
        return total


def _rows_of_sequences(block: Block, kept: Tensor | None) -> list[int]:
    """Returns how many rows each sequence of a block keeps, without those that keep none."""
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
