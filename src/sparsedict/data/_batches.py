"""Cutting a stream of rows into batches, so that it can be stopped and taken up anywhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

from sparsedict.batches import Activations, Points, aliases, lookup, names_of, sites_of
from sparsedict.torch_state import in_own_state

Position = tuple[int, int]
"""Where a source stands in a pass: items consumed, and entries consumed of the item after them."""

BEGINNING: Position = (0, 0)


@dataclass(frozen=True)
class Chunk:
    """Rows that lie in memory together, and the order in which to serve them.

    Attributes:
        held: The rows; valid until the next chunk is requested.
        order: Permutation of the rows; ``None`` serves them as they lie.
        start: Position of the source before these rows.
        end: Position of the source after them.
        cuts: Row numbers, in ascending order, before which a batch may end; ``None`` where it may end anywhere. The
            last is the number of rows.
    """

    held: Activations
    order: Tensor | None
    start: Position
    end: Position
    cuts: Sequence[int] | None = None

    def __len__(self) -> int:
        return self.held.n_tokens

    def stop(self, start: int, wanted: int, most: int) -> int:
        """Returns before which row a piece of a batch ends.

        Args:
            start: First row of the piece.
            wanted: Rows that the batch has room for.
            most: Rows of a whole batch: a longer sequence is a batch of its own.
        """
        if self.cuts is None:
            return min(len(self), start + wanted)
        fits = bisect_right(self.cuts, start + wanted) - 1
        if fits >= 0 and self.cuts[fits] > start:
            return self.cuts[fits]
        return self.cuts[bisect_right(self.cuts, start)] if wanted >= most else start

    def rows(self, start: int, stop: int) -> Activations:
        """Returns the rows served at ``start`` to ``stop``: copies where there is an order."""
        if self.order is None:
            return self.held.map(lambda value: _trainable(value[start:stop]))
        return self.held.rows(self.order[start:stop])


def _trainable(rows: Tensor) -> Tensor:
    """Returns rows that autograd may save: it can't save rows that were made in inference mode."""
    return rows.clone() if rows.is_inference() else rows


class RowSource(ABC):
    """Source of rows: a finite or endless pass, made again for each epoch.

    Attributes:
        points: Names of the points whose activations it serves.
        shared: Points whose tensor is that of another point, such as both ends of a residual stream.
        n_tokens: Tokens of one pass, where known before it has been made.
        grouped: Whether each chunk is a batch that was cut elsewhere.
        replays: Whether a position in a pass can only be reached by reading everything before it.
        metadata: Facts about each site by its name, such as the name of its model; the name is empty for a single site.
        origin: Description of the tokens and of how later passes differ.
    """

    points: tuple[str, ...]
    shared: Mapping[str, str] = MappingProxyType({})
    n_tokens: int | None = None
    grouped: bool = False
    replays: bool = False
    metadata: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    origin: str

    @abstractmethod
    def chunks(self, epoch: int, start: Position, most: int | None = None) -> Iterator[Chunk]:
        """Serves pass number ``epoch`` from ``start`` on, the same each time it is called.

        Args:
            epoch: Number of the pass.
            start: Where to begin: the ``end`` of a chunk of this pass, or the beginning.
            most: Rows that will be asked for from there on, over all passes, where known: no more need be held ready.
        """

    def finalize(self, batch: Activations) -> Activations:
        """Returns a batch of rows as it is served, such as on another device."""
        return batch

    def state(self, position: Position) -> Any:
        """Returns what the source needs to go on where it stands; ``None`` where the position suffices."""
        return None

    def restore(self, state: Any) -> None:
        """Goes to where another source stood when it gave this state."""
        raise ValueError(f"`state` was saved with another kind of data than this: {self.origin}.")


class Batches(Iterator[Activations]):
    """Batches of activations in a reproducible order: an iterator that knows where it stands.

    Rows are served pass after pass, and a batch may straddle two passes, so that all have one size. (If a pass
    holds fewer tokens than a batch, each batch is a whole pass.) With ``repeat=False`` the iterator ends after
    one pass and its last batch may be short.

    A state names the next row by its place in the source; activations aren't stored. To take it up, the source
    harvests again the one chunk that holds that row, with the model's batches as they were, so that what follows
    is equal bit for bit on the same machine.

    Attributes:
        batch_size: Tokens per batch; ``None`` where the batches came ready-made.
        points: Names of the points whose activations a batch holds.
        names: Names of the sites; ``None`` for a single site without a name.
        n_tokens: Tokens of one pass, where known in advance.
        epoch: Number of the pass that the next row comes from.
        n_tokens_yielded: Tokens served so far, over all passes.
    """

    def __init__(self, source: RowSource, *, batch_size: int | None, seed: int | None, repeat: bool) -> None:
        self.batch_size = batch_size
        self.n_tokens_yielded: int = 0
        self.epoch: int = 0
        self._source = source
        self._seed = seed
        self._repeat = repeat
        self._expected: int | None = None
        self._begin(0)

    @property
    def points(self) -> tuple[str, ...]:
        return self._source.points

    @property
    def names(self) -> tuple[str, ...] | None:
        return sites_of(self.points) or None

    @property
    def replays(self) -> bool:
        """Whether a position in a pass can only be reached by reading everything before it."""
        return self._source.replays

    def resolve(self, points: Points, site: str | tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Returns the points of the data that a dictionary's points stand for; one name for points that share a tensor.

        Args:
            points: Names as a dictionary gives them: ``"inputs"``, or ``"0.inputs"``.
            site: Site, or sites, whose points are meant.

        Raises:
            ValueError: If there is no such site, or no such point (`MissingPointError`).
        """
        return tuple(self._source.shared.get(part, part) for part in self._parts(points, site))

    def sites_of(self, points: Points, site: str | tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Returns the names of the sites that a dictionary's points belong to; empty for a site without a name.

        Args:
            points: See :meth:`resolve`.
            site: See :meth:`resolve`.
        """
        return sites_of(self._parts(points, site))

    def _parts(self, points: Points, site: str | tuple[str, ...] | None) -> list[str]:
        known = aliases(self.points, site)
        return [part for name in names_of(points) for part in known[lookup(name, known)]]

    def metadata(self, site: str | tuple[str, ...] | None) -> dict[str, Any]:
        """Returns metadata about a site, such as its ``model`` and ``site``; of several sites, lists of metadata.

        Args:
            site: The site, or sites; ``None`` or an empty tuple for all.
        """
        names = names_of(site) if site else tuple(self._source.metadata)
        found = [self._source.metadata.get(name, {}) for name in names]
        keys = dict.fromkeys(key for metadata in found for key in metadata)
        values = {key: [metadata.get(key) for metadata in found] for key in keys}
        return {key: own[0] if len(own) == 1 else own for key, own in values.items()}

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
        return f"{type(self).__name__}({self.description}; {self.n_tokens_yielded:,} tokens served)"

    def __iter__(self) -> Batches:
        return self

    @in_own_state
    def __next__(self) -> Activations:
        pieces = self._take()
        if not pieces:
            raise StopIteration
        return self._source.finalize(Activations.cat(pieces))

    def next_batch(self) -> Activations:
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

    def _take(self) -> list[Activations]:
        pieces: list[Activations] = []
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
            stop = chunk.stop(self._row, wanted, self.batch_size or wanted)
            if stop == self._row:
                break
            pieces.append(chunk.rows(self._row, stop))
            n_held += stop - self._row
            self.n_tokens_yielded += stop - self._row
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
        left = None if self._expected is None else self._expected - (self.n_tokens_yielded - self._row)
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
            "n_served": self.n_tokens_yielded,
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
        self.n_tokens_yielded = int(state["n_served"])
        self._expected = state.get("expected")
