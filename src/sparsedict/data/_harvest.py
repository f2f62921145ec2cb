"""Running a model on blocks of tokens and filling a buffer with what its sites read and write."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsedict.data._batches import BEGINNING, AnyBatch, Chunk, Position, RowSource
from sparsedict.data._facts import site_facts
from sparsedict.data._layout import Layout
from sparsedict.data._seeds import permutation
from sparsedict.data._tokens import Block, BlockSize, RowArray, TokenSource
from sparsedict.sites import Site, capture_sites
from sparsedict.sites._tokens import Seen, token_embedding
from sparsedict.types import ActivationBatch

_SEQUENCES, _ROWS = 0, 1
"""What a permutation is of, so that the two draw from generators of their own."""


@dataclass(frozen=True)
class Harvester:
    """Captures the kept positions of sites, as columns.

    Attributes:
        sites: By name; the key of a single site without a name is ``None``.
        neurons: Names of the sites whose hidden activations are captured too.
        dtype: Of the columns; ``None`` leaves the model's.
        device: Of the columns; ``None`` leaves the model's.
    """

    sites: Mapping[str | None, Site]
    neurons: frozenset[str | None]
    dtype: torch.dtype | None
    device: torch.device | None

    @property
    def model(self) -> nn.Module:
        return next(iter(self.sites.values())).model

    @property
    def by_token(self) -> bool:
        """Whether some positions are left out for the token that they hold."""
        return any(site.exclusion.tokens for site in self.sites.values())

    def kept(self, block: Block) -> Tensor | None:
        """Returns which positions every site keeps, as flat indices on the CPU; ``None`` if all are kept."""
        seen = Seen(block.tokens, block.attention_mask)
        mask = None
        for exclusion in {site.exclusion for site in self.sites.values()}:
            own = seen.kept(block.tokens.shape, exclusion)
            if own is not None:
                mask = own if mask is None else mask & own
        if mask is None or bool(mask.all()):
            return None
        return mask.flatten().nonzero().squeeze(-1)

    def capture(self, block: Block) -> tuple[Layout, tuple[Tensor, ...]]:
        """Returns the activations of a block, of all its positions."""
        tokens = block.tokens
        if block.attention_mask is not None and takes_mask(self.model):
            tokens = {"input_ids": block.tokens, "attention_mask": block.attention_mask.long()}
        names = {str(index): name for index, name in enumerate(self.sites)}
        captured = capture_sites(
            {key: self.sites[name] for key, name in names.items()},
            tokens,
            neurons=[key for key, name in names.items() if name in self.neurons],
        )
        flat: dict[str | None, ActivationBatch] = {}
        for key, name in names.items():
            found = captured[key]
            if found.shape.numel() != block.tokens.numel():
                raise ValueError(
                    f"{self.sites[name]!r} must have a position for each token, got activations of leading shape "
                    f"{tuple(found.shape)} for tokens {tuple(block.tokens.shape)}. Name a site inside the sequence."
                )
            parts = (found.inputs, found.outputs, found.neurons)
            inputs, outputs, hidden = (None if part is None else part.flatten(0, -2) for part in parts)
            assert inputs is not None
            assert outputs is not None
            flat[name] = ActivationBatch(inputs, outputs, hidden)
        return Layout.of_places(flat)


def takes_mask(model: nn.Module) -> bool:
    """Whether a model can be told of padding."""
    parameters = inspect.signature(model.forward).parameters.values()
    return any(p.name == "attention_mask" or p.kind is p.VAR_KEYWORD for p in parameters)


def vocabulary(model: nn.Module) -> int | None:
    """Returns how many token ids a model knows, where its embedding tells."""
    embedding = token_embedding(model)
    for holder, name in ((embedding, "num_embeddings"), (getattr(model, "cfg", None), "d_vocab")):
        value = getattr(holder, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Turns dropout off for a while: the same tokens must give the same activations."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class HarvestedRows(RowSource):
    """Rows from a model: a buffer is filled, served in random order until it is empty, and filled again.

    Sequences (or documents) come in an order of each pass's own, where the source can be gone through in any order;
    the buffer then mixes the positions of sequences. A source that fits into the buffer is harvested once.

    Filling again when half is served would mix as a buffer of 1.5 times the size does (the chance that two rows of a
    batch are of one sequence falls by a third). But then some rows outlive many fillings, and a place in the pass
    could be taken up again only by storing activations or by harvesting many buffers. Emptied each time, it takes one.
    """

    def __init__(
        self, harvester: Harvester, tokens: TokenSource, *, buffer_size: int, block_size: BlockSize, seed: int
    ) -> None:
        self.names = tuple(name for name in harvester.sites if name is not None) or None
        self.single = frozenset(name for name, site in harvester.sites.items() if site.reads == site.writes)
        self.origin = tokens.origin
        self.replays = not tokens.seeks
        self.facts = {name: site_facts(site) for name, site in harvester.sites.items()}
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
        self._columns: tuple[Tensor, ...] = ()
        self._layout: Layout | None = None
        self._whole: Chunk | None = None

    def chunks(self, epoch: int, start: Position) -> Iterator[Chunk]:
        if self._resident:
            return self._from_resident(epoch, start)
        return self._harvested(epoch, start, (self._seed, epoch, _SEQUENCES) if self._tokens.seeks else None)

    def _from_resident(self, epoch: int, start: Position) -> Iterator[Chunk]:
        if start != BEGINNING:
            return
        if self._whole is None:
            self._whole = next(self._harvested(0, BEGINNING, None), None)
        if self._whole is not None:
            whole = self._whole
            yield Chunk(whole.columns, self._order(len(whole), epoch, BEGINNING), BEGINNING, whole.end)

    def _harvested(self, epoch: int, start: Position, order: tuple[int, int, int] | None) -> Iterator[Chunk]:
        blocks = self._tokens.blocks(order, epoch, start, self._block_size)
        block = next(blocks, None)
        while block is not None:
            n_rows, n_positions, end = 0, 0, start
            bad: list[Tensor] = []
            with evaluating(self._harvester.model):
                while block is not None and n_rows + block.tokens.numel() <= self._capacity:
                    n_rows = self._append(block, n_rows, bad)
                    n_positions += block.tokens.numel()
                    end = block.end
                    block = next(blocks, None)
                    if n_positions >= self._target and self._tokens.n_positions is not None:
                        break
            if bad and bool(torch.stack(bad).any()):
                self._refuse(0, n_rows)
            if n_rows:
                columns = tuple(column[:n_rows] for column in self._columns)
                yield Chunk(columns, self._order(n_rows, epoch, start), start, end)
            start = end

    def _order(self, n_rows: int, epoch: int, start: Position) -> Tensor:
        return permutation(n_rows, self._seed, epoch, _ROWS, *start).to(self._columns[0].device)

    def _append(self, block: Block, n_rows: int, bad: list[Tensor]) -> int:
        """Captures a block, puts its kept rows into the buffer, and returns how many it holds then."""
        self._check_ids(block)
        kept = self._kept(block)
        if kept is not None and not len(kept):
            return n_rows
        layout, captured = self._harvester.capture(block)
        if self._layout is None:
            self._layout = layout
            self._columns = tuple(self._allocated(column) for column in captured)
        stop = n_rows + (block.tokens.numel() if kept is None else len(kept))
        # Sums are checked instead of entries: one pass over the rows, without another tensor of their size.
        sums = [_put(column[n_rows:stop], value, kept) for column, value in zip(self._columns, captured, strict=True)]
        wrong = ~torch.stack(sums).sum().isfinite()
        if wrong.device.type != "cpu":
            # Read once for each filling of the buffer, for reading waits for the device.
            bad.append(wrong)
        elif bool(wrong):
            self._refuse(n_rows, stop)
        return stop

    def _kept(self, block: Block) -> Tensor | None:
        if block.attention_mask is not None or self._harvester.by_token:
            return self._harvester.kept(block)
        # Then it is a matter of the shape alone.
        if block.tokens.shape not in self._kept_of_shape:
            self._kept_of_shape = {block.tokens.shape: self._harvester.kept(block)}
        return self._kept_of_shape[block.tokens.shape]

    def _allocated(self, column: Tensor) -> Tensor:
        harvester = self._harvester
        return torch.empty(
            self._capacity,
            column.shape[-1],
            dtype=harvester.dtype or column.dtype,
            device=harvester.device or column.device,
        )

    def _check_ids(self, block: Block) -> None:
        low, high = (int(value) for value in torch.aminmax(block.tokens))
        if low < 0 or (self._vocabulary is not None and high >= self._vocabulary):
            known = "not negative" if self._vocabulary is None else f"from 0 to {self._vocabulary - 1}, the model's"
            raise ValueError(
                f"`tokens` must be ids {known}, got ids from {low} to {high}. Are they another tokenizer's?"
            )

    def _refuse(self, start: int, stop: int) -> None:
        """Raises if rows of the buffer aren't finite, naming the site. A sum may have overflowed by itself."""
        assert self._layout is not None
        for name, places in self._layout.places.items():
            for role, place in zip(("inputs", "outputs", "neurons"), places, strict=True):
                rows = None if place is None else self._columns[place][start:stop]
                n_bad = 0 if rows is None else int((~rows.isfinite()).sum())
                if rows is not None and n_bad:
                    site = self._harvester.sites[name]
                    raise ValueError(
                        f"{site!r}{'' if name is None else f' (named {name!r})'} must give finite activations, got "
                        f"{n_bad:,} NaN or infinite of {rows.numel():,} entries in its {role}, stored as {rows.dtype}. "
                        "Look at the model's weights and at the range of that dtype."
                    )

    def batch(self, columns: tuple[Tensor, ...]) -> AnyBatch:
        assert self._layout is not None
        return self._layout.batch(columns)

    def count(self) -> int | None:
        """Returns how many tokens a pass keeps, by going through an array of tokens; ``None`` for other sources."""
        if not isinstance(self._tokens, RowArray):
            return None
        total = 0
        for block in self._tokens.all():
            kept = self._harvester.kept(block)
            total += block.tokens.numel() if kept is None else len(kept)
        return total


def _put(rows: Tensor, value: Tensor, kept: Tensor | None) -> Tensor:
    """Copies kept rows into the buffer and returns their sum."""
    if kept is not None:
        kept = kept.to(value.device)
        if value.dtype == rows.dtype and value.device == rows.device:
            torch.index_select(value, 0, kept, out=rows)
        else:
            rows.copy_(value.index_select(0, kept))
    else:
        rows.copy_(value)
    return rows.sum(dtype=torch.float32)
