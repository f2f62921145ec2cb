"""Batches as plain columns and back: what is one tensor in several places is stored and served once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsedict.data._batches import AnyBatch
from sparsedict.types import ActivationBatch

Places = tuple[int, int, int | None]
"""Columns of inputs, outputs and neurons."""


@dataclass(frozen=True)
class Layout:
    """Which column holds what.

    Attributes:
        places: For each site its columns; the key of a single site without a name is ``None``.
    """

    places: dict[str | None, Places]

    @classmethod
    def of(cls, batch: AnyBatch) -> tuple[Layout, tuple[Tensor, ...]]:
        """Returns the layout of a batch, and its distinct tensors."""
        return cls.of_places({**batch} if isinstance(batch, dict) else {None: batch})

    @classmethod
    def of_places(cls, by_name: Mapping[str | None, ActivationBatch]) -> tuple[Layout, tuple[Tensor, ...]]:
        """As `of`, with the batch of a single site under ``None``."""
        columns: dict[object, Tensor] = {}

        def place(tensor: Tensor) -> int:
            key = _identity(tensor)
            columns.setdefault(key, tensor)
            return list(columns).index(key)

        def one(batch: ActivationBatch) -> Places:
            neurons = None if batch.neurons is None else place(batch.neurons)
            return place(batch.inputs), place(batch.outputs), neurons

        places = {name: one(batch) for name, batch in by_name.items()}
        return cls(places), tuple(columns.values())

    @property
    def names(self) -> tuple[str, ...] | None:
        """Sites by name; ``None`` for one without."""
        names = tuple(name for name in self.places if name is not None)
        return names or None

    @property
    def single(self) -> frozenset[str | None]:
        """Sites whose outputs are their inputs."""
        return frozenset(name for name, (inputs, outputs, _) in self.places.items() if inputs == outputs)

    def batch(self, columns: tuple[Tensor, ...]) -> AnyBatch:
        """Puts columns together as the batch that they came from."""

        def one(places: Places) -> ActivationBatch:
            inputs, outputs, neurons = places
            return ActivationBatch(columns[inputs], columns[outputs], None if neurons is None else columns[neurons])

        if self.names is None:
            return one(self.places[None])
        return {name: one(places) for name, places in self.places.items() if name is not None}


def _identity(tensor: Tensor) -> object:
    """What two tensors share if they are views of the same numbers. Empty ones have no address to tell them by."""
    if not tensor.numel():
        return id(tensor)
    return tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride()
