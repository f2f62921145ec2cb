"""`RowSource`, a source of rows of activations, which it yields in chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sparsedict.batches import Activations
from sparsedict.parallel import Parallel

Position = tuple[int, int]
"""Position of a source in a pass: number of consumed items, and of consumed entries of the next item."""

BEGINNING: Position = (0, 0)


@dataclass(frozen=True)
class Chunk:
    """Rows in memory, and the order in which to return them.

    Attributes:
        activations: The rows; valid until the next chunk is requested.
        order: Permutation of the rows; ``None`` for their order in memory.
        start: Position of the source before these rows.
        end: Position of the source after these rows.
        cuts: Row numbers, in ascending order, before which a batch may end; ``None`` if it may end anywhere. The last
            one is the number of rows.
    """

    activations: Activations
    order: Tensor | None
    start: Position
    end: Position
    cuts: Sequence[int] | None = None

    @cached_property
    def n_rows(self) -> int:
        return self.activations.n_tokens

    def __len__(self) -> int:
        return self.n_rows

    def stop(self, start: int, wanted: int, max_rows: int) -> int:
        """Returns the row at which a piece of a batch ends, exclusive.

        Args:
            start: First row of the piece.
            wanted: Number of rows missing in the batch.
            max_rows: Number of rows of a whole batch. A longer sequence becomes a separate batch.
        """
        if self.cuts is None:
            return min(len(self), start + wanted)
        fits = bisect_right(self.cuts, start + wanted) - 1
        if fits >= 0 and self.cuts[fits] > start:
            return self.cuts[fits]
        return self.cuts[bisect_right(self.cuts, start)] if wanted >= max_rows else start

    def rows(self, start: int, stop: int) -> Activations:
        """Returns the rows from ``start`` to ``stop`` in the order of the chunk, copied if ``order`` isn't ``None``."""
        if self.order is None:
            return self.activations.map(lambda value: _trainable(value[start:stop]))
        return self.activations.rows(self.order[start:stop])

    def receivers(self, start: int, stop: int, n_before: int, n_parts: int) -> Tensor:
        """Returns the part of a run that each row from ``start`` to ``stop`` belongs to.

        Row ``j`` of a batch belongs to part ``j % n_parts``. Sequences that must stay whole are dealt in turn.

        Args:
            start: First row of a piece of a batch.
            stop: Row after the piece.
            n_before: Number of rows of the batch before the piece.
            n_parts: Number of parts.
        """
        rows = torch.arange(start, stop, device="cpu")
        if self.cuts is None:
            return (rows - start + n_before) % n_parts
        return torch.searchsorted(torch.tensor(self.cuts, device="cpu"), rows, right=True) % n_parts

    def of_part(self, start: int, stop: int, receivers: Tensor, part: int) -> Activations:
        """Returns the rows from ``start`` to ``stop`` that belong to a part, given the part of each."""
        index = start + (receivers == part).nonzero().flatten()
        if self.order is not None:
            index = self.order[index.to(self.order.device)]
        return self.activations.rows(index)


def _trainable(rows: Tensor) -> Tensor:
    """Returns rows that autograd can save. It can't save tensors created in inference mode."""
    return rows.clone() if rows.is_inference() else rows


class RowSource(ABC):
    """A source of rows. Each epoch is one pass over it, which is finite or endless.

    Attributes:
        points: Names of the points in its rows.
        shared: Points that share the tensor of another point, such as both points of a site in a residual stream.
        n_tokens: Number of tokens of one pass; ``None`` if unknown in advance.
        grouped: Whether each chunk is a ready-made batch.
        replays: Whether reaching a position in a pass requires reading everything before it.
        metadata: Metadata by site, such as the name of its model. A single site may have an empty name.
        origin: Description of the tokens, and of how later passes differ.
    """

    points: tuple[str, ...]
    shared: Mapping[str, str] = MappingProxyType({})
    n_tokens: int | None = None
    grouped: bool = False
    replays: bool = False
    metadata: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    origin: str

    @abstractmethod
    def chunks(self, epoch: int, start: Position, max_rows: int | None = None) -> Iterator[Chunk]:
        """Yields the chunks of pass number ``epoch`` from ``start`` on. Repeated calls yield the same chunks.

        Args:
            epoch: Number of the pass.
            start: The ``end`` of a chunk of this pass, or the beginning.
            max_rows: Number of rows that will be read from there on, over all passes, if known. It limits the buffer.
        """

    def finalize(self, batch: Activations) -> Activations:
        """Post-processes a batch before it is returned, such as by moving it to another device."""
        return batch

    def divide(self, parallel: Parallel) -> None:
        """Divides the work of a pass among the ranks of a run. By default, each rank reads all rows."""

    def state(self, position: Position) -> Any:
        """Returns the state to resume the source; ``None`` if its position suffices."""
        return None

    def restore(self, state: Any) -> None:
        """Resumes from the state of another source."""
        raise ValueError(
            f"`state` must be a state of the same kind of data, {self.origin}. Use the data of the original run."
        )
