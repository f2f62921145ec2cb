"""`Batches`, which splits the rows of a source into batches and can resume at any batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sparsedict.batches import Activations, Points, aliases, lookup, names_of, sites_of
from sparsedict.data._row_source import BEGINNING, Chunk, Position, RowSource
from sparsedict.parallel import Alone, Parallel
from sparsedict.torch_state import in_own_state

ALONE = Alone()


class Batches(Iterator[Activations]):
    """An iterator over batches of activations in a reproducible order, which can be stopped and resumed.

    It makes pass after pass over the data. A batch may contain rows of two passes, so that all batches have the same
    size. (If a pass has fewer tokens than a batch, each batch is a whole pass.) With ``repeat=False``, the iterator
    ends after one pass, and the last batch may be short.

    A state identifies the next row by its position in the source. It contains no activations. To resume, the source
    computes the chunk with that row again, with the same batches of the model, so that the following batches are
    bit-identical on the same machine.

    Attributes:
        batch_size: Tokens per batch; ``None`` for ready-made batches.
        points: Names of the points in a batch.
        names: Names of the sites; ``None`` for a single site without a name.
        n_tokens: Number of tokens of one pass; ``None`` if unknown in advance.
        epoch: Number of the pass of the next row.
        n_tokens_yielded: Number of tokens returned so far, over all passes.
        can_stop: Whether an exception may stop the computation of a batch, which is then computed again.
    """

    can_stop: bool = True

    def __init__(
        self,
        source: RowSource,
        *,
        batch_size: int | None,
        seed: int | None,
        repeat: bool,
        parallel: Parallel = ALONE,
    ) -> None:
        self._parallel = parallel
        self.batch_size = batch_size
        self.n_tokens_yielded: int = 0
        self.epoch: int = 0
        self._source = source
        if parallel.n_parts > 1:
            source.divide(parallel)
        self._seed = seed
        self._repeat = repeat
        self._expected: int | None = None
        self._start_pass(0)

    @property
    def points(self) -> tuple[str, ...]:
        return self._source.points

    @property
    def names(self) -> tuple[str, ...] | None:
        return sites_of(self.points) or None

    @property
    def replays(self) -> bool:
        """Whether reaching a position in a pass requires reading everything before it."""
        return self._source.replays

    def resolve(self, points: Points, site: str | tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Resolves the points of a dictionary to points of the data. Points that share a tensor get the same name.

        Args:
            points: Names of the dictionary's points, such as ``"inputs"`` or ``"0.inputs"``.
            site: Name of the site or sites of the points.

        Raises:
            ValueError: If there is no such site, or no such point (`MissingPointError`).
        """
        return tuple(self._source.shared.get(part, part) for part in self._parts(points, site))

    def sites_of(self, points: Points, site: str | tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Returns the names of the sites of a dictionary's points; empty for a site without a name.

        Args:
            points: See :meth:`resolve`.
            site: See :meth:`resolve`.
        """
        return sites_of(self._parts(points, site))

    def _parts(self, points: Points, site: str | tuple[str, ...] | None) -> list[str]:
        known = aliases(self.points, site)
        return [part for name in names_of(points) for part in known[lookup(name, known)]]

    def metadata(self, site: str | tuple[str, ...] | None) -> dict[str, Any]:
        """Returns the metadata of a site, such as its ``model`` and ``site``. For several sites, the values are lists.

        Args:
            site: Name of the site or sites; ``None`` or an empty tuple for all.
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
        """One-line description of the data and of how passes repeat."""
        size = "ready-made batches" if self.batch_size is None else f"batches of {self.batch_size:,}"
        seed = "" if self._seed is None else f", seed {self._seed}"
        return f"{self._source.origin}; {size}{seed}; {'repeated' if self._repeat else 'one pass'}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.description}; {self.n_tokens_yielded:,} tokens returned)"

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Activations:
        return self.next_batch()

    @in_own_state
    def next_batch(self) -> Activations:
        """Returns the next batch.

        Raises:
            ValueError: If the source has no tokens, or can't be read a second time.
            StopIteration: After the last batch, with ``repeat=False``.
        """
        pieces = self._take()
        if not pieces:
            raise StopIteration
        return self._source.finalize(pieces[0] if len(pieces) == 1 else Activations.cat(pieces))

    def expect(self, n_tokens: int) -> None:
        """Announces the total number of tokens that will be read, rounded up to whole batches.

        Sources then compute no more activations than necessary, so the last buffer may be smaller. Reading more tokens
        is possible. The number is part of the state, because it determines which tokens a buffer mixes.
        """
        size = self.batch_size or 1
        self._expected = -(-n_tokens // size) * size

    def _take(self) -> list[Activations]:
        pieces: list[Activations] = []
        n_taken = 0
        counts = torch.zeros(self._parallel.n_parts, dtype=torch.int64, device="cpu")
        while not n_taken or (self.batch_size is not None and n_taken < self.batch_size):
            chunk = self._current()
            if chunk is None:
                if self._n_pass == 0:
                    raise ValueError(
                        "The data must have at least one token that isn't excluded, got none from "
                        f"{self._source.origin}."
                    )
                whole_pass = n_taken == self._n_pass
                if not self._repeat:
                    break
                self._start_pass(self.epoch + 1)
                if whole_pass:
                    break
                continue
            wanted = len(chunk) if self.batch_size is None else self.batch_size - n_taken
            stop = chunk.stop(self._row, wanted, self.batch_size or wanted)
            if stop == self._row:
                break
            pieces.append(self._piece(chunk, stop, n_taken, counts))
            n_taken += stop - self._row
            self.n_tokens_yielded += stop - self._row
            self._n_pass += stop - self._row
            self._row = stop
        self._check_counts(counts)
        return pieces

    def _piece(self, chunk: Chunk, stop: int, n_taken: int, counts: Tensor) -> Activations:
        """Returns this rank's rows of the next piece of a batch.

        Args:
            chunk: The current chunk.
            stop: Row of the chunk after the piece.
            n_taken: Number of rows of the batch before the piece.
            counts: Number of rows of each part, to which those of the piece are added.
        """
        if self._parallel.n_parts == 1:
            counts += stop - self._row
            return chunk.rows(self._row, stop)
        receivers = chunk.receivers(self._row, stop, n_taken, self._parallel.n_parts)
        counts += torch.bincount(receivers, minlength=self._parallel.n_parts)
        return chunk.of_part(self._row, stop, receivers, self._parallel.part)

    def _check_counts(self, counts: Tensor) -> None:
        """Raises an error on all ranks if a batch has no row for one of them."""
        if not counts.all() and counts.any():
            raise ValueError(
                f"`batch_size` must be at least the number of ranks, {len(counts)}, and a batch must have a sequence "
                f"for each rank with mix='sequences', got a batch of {int(counts.sum())} tokens. Use larger batches."
            )

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
                # A generator that has raised behaves as if exhausted, which would look like the end of the data.
                self._chunks = None
                raise
            if self._chunk is None:
                return None
            self._start = self._chunk.start
        return self._chunk

    def _still_expected(self) -> int | None:
        """Returns the expected number of rows from the start of the chunk on."""
        left = None if self._expected is None else self._expected - (self.n_tokens_yielded - self._row)
        return left if left is not None and left > 0 else None

    def _start_pass(self, epoch: int, start: Position = BEGINNING, row: int = 0, n_pass: int = 0) -> None:
        self.epoch = epoch
        self._start = start
        self._row = row
        self._n_pass = n_pass
        self._chunk: Chunk | None = None
        self._chunks: Iterator[Chunk] | None = None

    def described(self) -> tuple[dict[str, Any], int | None, int | None, dict[str, Any]]:
        """Returns the attributes of the source, batch size, seed and state, for a process that receives the batches."""
        names = ("points", "n_tokens", "grouped", "replays", "origin")
        source: dict[str, Any] = {name: getattr(self._source, name) for name in names}
        source |= {"shared": dict(self._source.shared)}
        source |= {"metadata": {name: dict(own) for name, own in self._source.metadata.items()}}
        return source, self.batch_size, self._seed, self.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the next row, as a few integers.

        Iterables of batches (see `as_batches`) add a state under ``"source"``.
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
        """Resumes from the state of another iterator over the same data.

        Raises:
            ValueError: If the state isn't a state of `Batches`, or was saved with another batch size or seed.
        """
        missing = self.state_dict().keys() - state.keys() - {"source", "expected"}
        if missing:
            raise ValueError(
                f"`state` must be a state of Batches, got one without the keys {', '.join(sorted(missing))}."
            )
        for name, mine in (("batch_size", self.batch_size), ("seed", self._seed)):
            if state[name] != mine:
                raise ValueError(
                    f"`state` must have the same {name} as these batches, {mine}, got {state[name]}. Use the original "
                    f"{name}, or start a new run."
                )
        first, second = state["position"]
        if state.get("source") is not None:
            self._source.restore(state["source"])
        self._start_pass(int(state["epoch"]), (int(first), int(second)), int(state["row"]), int(state["n_pass"]))
        self.n_tokens_yielded = int(state["n_served"])
        self._expected = state.get("expected")
