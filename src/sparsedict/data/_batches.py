"""Cutting a stream of rows into batches, so that it can be stopped and taken up anywhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sparsedict.torch_state import in_own_state
from sparsedict.types import ActivationBatch

AnyBatch = ActivationBatch | dict[str, ActivationBatch]
"""A batch of one site, or of several sites by name, with the same tokens in the same order."""

Position = tuple[int, int]
"""Where a source stands in a pass: items consumed, and entries consumed of the item after them."""

BEGINNING: Position = (0, 0)


@dataclass(frozen=True)
class Chunk:
    """Rows that lie in memory together, and the order in which to serve them.

    Attributes:
        columns: Tensors ``[n_tokens, width]``; valid until the next chunk is asked for.
        order: Permutation of the rows; ``None`` serves them as they lie.
        start: Where the source stood before it gave these rows.
        end: Where it stands after them.
    """

    columns: tuple[Tensor, ...]
    order: Tensor | None
    start: Position
    end: Position

    def __len__(self) -> int:
        return len(self.columns[0])

    def rows(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """Returns the rows served at ``start`` to ``stop``: copies where there is an order."""
        if self.order is None:
            return tuple(_trainable(column[start:stop]) for column in self.columns)
        index = self.order[start:stop]
        return tuple(column.index_select(0, index) for column in self.columns)


def _trainable(rows: Tensor) -> Tensor:
    """Returns rows that autograd may save: those made in inference mode are copied, for it refuses them."""
    return rows.clone() if rows.is_inference() else rows


class RowSource(ABC):
    """Where rows come from: a finite or endless pass, made again for each epoch.

    Attributes:
        names: Sites by name, or ``None`` for one site without a name.
        single: Sites whose inputs and outputs are one thing, such as a bare tensor: they have no pairs to distil. The
            key of a site without a name is ``None``.
        n_tokens: Tokens of one pass, where known before it has been made.
        grouped: Whether each chunk is a batch that somebody else has cut.
        replays: Whether to begin elsewhere than at the beginning of a pass means to read all that comes before it.
        facts: What is known of each site, such as the names of its model and of its place there.
        origin: What the tokens come from and how later passes differ, for people.
    """

    names: tuple[str, ...] | None = None
    single: frozenset[str | None] = frozenset()
    n_tokens: int | None = None
    grouped: bool = False
    replays: bool = False
    facts: Mapping[str | None, Mapping[str, str]] = MappingProxyType({})
    origin: str

    @abstractmethod
    def chunks(self, epoch: int, start: Position, most: int | None = None) -> Iterator[Chunk]:
        """Serves pass number ``epoch`` from ``start`` on, the same each time it is called.

        Args:
            epoch: Number of the pass.
            start: Where to begin: the ``end`` of a chunk of this pass, or the beginning.
            most: Rows that will be asked for from there on, over all passes, where known: no more need be held ready.
        """

    @abstractmethod
    def batch(self, columns: tuple[Tensor, ...]) -> AnyBatch:
        """Puts columns together as a batch."""

    def state(self, position: Position) -> Any:
        """Returns what the source needs to go on where it stands; ``None`` where the position suffices."""
        return None

    def restore(self, state: Any) -> None:
        """Goes to where another source stood when it gave this state."""
        raise ValueError(f"`state` was saved with another kind of data than this: {self.origin}.")


class Batches(Iterator[AnyBatch]):
    """Batches of activations in a reproducible order: an iterator that knows where it stands.

    Rows are served pass after pass, and a batch may straddle two passes, so that all have one size. (If a pass
    holds fewer tokens than a batch, each batch is a whole pass.) With ``repeat=False`` the iterator ends after
    one pass and its last batch may be short.

    A state names the next row by its place in the source; activations aren't stored. To take it up, the source
    harvests again the one chunk that holds that row, with the model's batches as they were, so that what follows
    is equal bit for bit on the same machine.

    Attributes:
        batch_size: Tokens per batch; ``None`` where the batches came ready-made.
        names: Sites by name, or ``None`` for one site without a name; batches are dicts if there are names.
        pairs: Whether inputs and outputs are two things, at every site; false for a bare tensor.
        n_tokens: Tokens of one pass, where known in advance.
        epoch: Number of the pass that the next row comes from.
        n_served: Tokens served so far, over all passes.
    """

    def __init__(self, source: RowSource, *, batch_size: int | None, seed: int | None, repeat: bool) -> None:
        self.batch_size = batch_size
        self.n_served: int = 0
        self.epoch: int = 0
        self._source = source
        self._seed = seed
        self._repeat = repeat
        self._expected: int | None = None
        self._begin(0)

    @property
    def names(self) -> tuple[str, ...] | None:
        return self._source.names

    @property
    def pairs(self) -> bool:
        return not self._source.single

    @property
    def replays(self) -> bool:
        """Whether going to a place means to read all that comes before it in the pass."""
        return self._source.replays

    def has_pairs(self, site: str | None) -> bool:
        """Whether inputs and outputs are two things at one site; ``None`` for the first or only one."""
        return (self.names[0] if site is None and self.names else site) not in self._source.single

    def facts(self, site: str | None) -> dict[str, str]:
        """Returns what is known of a site, such as its ``model`` and ``site``; ``None`` for the first or only one."""
        return dict(self._source.facts.get(self.names[0] if site is None and self.names else site, {}))

    @property
    def n_tokens(self) -> int | None:
        return self._source.n_tokens

    @property
    def description(self) -> str:
        """What is served, in one line, including whether it repeats and how."""
        size = "ready-made batches" if self.batch_size is None else f"batches of {self.batch_size:,}"
        seed = "" if self._seed is None else f", seed {self._seed}"
        return f"{self._source.origin}; {size}{seed}; {'repeated' if self._repeat else 'one pass'}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.description}; {self.n_served:,} tokens served)"

    def __iter__(self) -> Batches:
        return self

    @in_own_state
    def __next__(self) -> AnyBatch:
        pieces = self._take()
        if not pieces:
            raise StopIteration
        columns = pieces[0] if len(pieces) == 1 else tuple(map(torch.cat, zip(*pieces, strict=True)))
        return self._source.batch(columns)

    def next_batch(self) -> AnyBatch:
        """Returns the next batch.

        Raises:
            ValueError: If the source gives no tokens, or can't be read a second time.
            StopIteration: After the last batch, with ``repeat=False``.
        """
        return next(self)

    def expect(self, n_tokens: int) -> None:
        """Says that no more than so many tokens will be asked for in all, rounded up to whole batches.

        A source then harvests no more for them: its buffer holds as many as are still to come, where these are fewer.
        Asking for more all the same is no error. It is part of the state, for it decides which tokens a buffer mixes.
        """
        size = self.batch_size or 1
        self._expected = -(-n_tokens // size) * size

    def _take(self) -> list[tuple[Tensor, ...]]:
        pieces: list[tuple[Tensor, ...]] = []
        n_held = 0
        while not pieces or (self.batch_size is not None and n_held < self.batch_size):
            chunk = self._current()
            if chunk is None:
                if self._n_pass == 0:
                    raise ValueError(f"There are no tokens to serve: {self._source.origin} gave none that are kept.")
                whole_pass = n_held == self._n_pass
                if not self._repeat:
                    break
                self._begin(self.epoch + 1)
                if whole_pass:
                    break
                continue
            wanted = len(chunk) if self.batch_size is None else self.batch_size - n_held
            stop = min(len(chunk), self._row + wanted)
            pieces.append(chunk.rows(self._row, stop))
            n_held += stop - self._row
            self.n_served += stop - self._row
            self._n_pass += stop - self._row
            self._row = stop
        return pieces

    def _current(self) -> Chunk | None:
        """Returns the chunk of the next row, or None at the end of the pass."""
        while self._chunk is None or self._row >= len(self._chunk):
            if self._chunk is not None:
                self._start, self._row = self._chunk.end, 0
                self._chunk = None
            if self._chunks is None:
                self._chunks = self._source.chunks(self.epoch, self._start, self._still_expected())
            try:
                self._chunk = next(self._chunks, None)
            except BaseException:
                # A generator that has raised looks like one at its end, which would pass for the end of the data.
                self._chunks = None
                raise
            if self._chunk is None:
                return None
            self._start = self._chunk.start
        return self._chunk

    def _still_expected(self) -> int | None:
        """Returns how many rows will be asked for from the beginning of the chunk on."""
        left = None if self._expected is None else self._expected - (self.n_served - self._row)
        return left if left is not None and left > 0 else None

    def _begin(self, epoch: int, start: Position = BEGINNING, row: int = 0, n_pass: int = 0) -> None:
        self.epoch = epoch
        self._start = start
        self._row = row
        self._n_pass = n_pass
        self._chunk: Chunk | None = None
        self._chunks: Iterator[Chunk] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Returns where the next row comes from: a few integers, whatever the size of the buffer.

        Iterables of batches (see `as_batches`) add what they need besides under ``"source"``.
        """
        start, row = self._start, self._row
        if self._chunk is not None and row == len(self._chunk):
            start, row = self._chunk.end, 0
        return {
            "epoch": self.epoch,
            "position": list(start),
            "row": row,
            "n_pass": self._n_pass,
            "n_served": self.n_served,
            "batch_size": self.batch_size,
            "seed": self._seed,
            "expected": self._expected,
            "source": self._source.state(start),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where another iterator over the same data stood.

        Raises:
            ValueError: If the state isn't one of these, or was saved with another batch size or seed.
        """
        missing = self.state_dict().keys() - state.keys() - {"source", "expected"}
        if missing:
            raise ValueError(f"`state` must be a state of Batches, got one without {', '.join(sorted(missing))}.")
        for name, mine in (("batch_size", self.batch_size), ("seed", self._seed)):
            if state[name] != mine:
                raise ValueError(
                    f"`state` was saved with {name} {state[name]}, but these batches have {name} {mine}: batches "
                    "would differ from those of the run that was stopped. Use the same, or begin anew."
                )
        first, second = state["position"]
        if state.get("source") is not None:
            self._source.restore(state["source"])
        self._begin(int(state["epoch"]), (int(first), int(second)), int(state["row"]), int(state["n_pass"]))
        self.n_served = int(state["n_served"])
        self._expected = state.get("expected")
