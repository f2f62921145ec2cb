"""Tensors with one row for each latent in the state of a run whose latents are divided among ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict.dictionaries import Dictionary, latent_blocks
from sparsedict.sharding import Shard

Function = Callable[[Any, tuple[int, ...]], Any]
"""Called with a value that belongs to latents, and the indices of their blocks."""

STORED = "latent_rows"
"""Key of the description of a tensor whose rows are in other files."""


@dataclass(frozen=True)
class LatentRows:
    """The rows of this rank of a tensor with one row for each latent of some blocks.

    Attributes:
        own: The rows.
        shard: The latents of this rank.
        blocks: Indices of the blocks.
    """

    own: Tensor
    shard: Shard
    blocks: tuple[int, ...]

    def parts(self) -> Iterator[Tensor]:
        """Yields the rows of each block, as parts of the block's whole tensor."""
        for own, size in zip(self.own.split(_own_sizes(self.shard, self.blocks)), self.sizes, strict=True):
            yield _part(own.cpu().contiguous(), size, self.shard)

    @property
    def sizes(self) -> list[int]:
        """Number of rows of each block, over all ranks."""
        return [self.shard.sizes[index] for index in self.blocks]


@dataclass(frozen=True)
class StoredRows:
    """A tensor with one row for each latent, in a checkpoint.

    Attributes:
        folder: The folder with the rows.
        name: Name of the tensor.
        sizes: Number of rows of each block.
        shape: Shape of a row.
        dtype: Name of the type.
    """

    folder: Path
    name: str
    sizes: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str

    def empty(self, sizes: Sequence[int]) -> Tensor:
        """Returns memory for rows."""
        return torch.empty(sum(sizes), *self.shape, dtype=getattr(torch, self.dtype), device="cpu")

    def names(self) -> list[str]:
        """Returns the name of the tensor of each block."""
        return [f"{self.name}#{index}" for index in range(len(self.sizes))]


def without_rows(state: Any, path: str = "state") -> tuple[Any, dict[str, Tensor]]:
    """Returns a state in which descriptions replace all `LatentRows`, and the rows by name."""
    found: dict[str, Tensor] = {}

    def plain(value: Any, path: str) -> Any:
        if isinstance(value, LatentRows):
            found.update({f"{path}#{index}": part for index, part in enumerate(value.parts())})
            dtype = str(value.own.dtype).rpartition(".")[2]
            return {STORED: path, "sizes": value.sizes, "shape": list(value.own.shape[1:]), "dtype": dtype}
        return _walked(value, path, plain)

    return plain(state, path), found


def with_stored(state: Any, folder: Path) -> Any:
    """Returns a state in which `StoredRows` replace the descriptions of `without_rows`."""

    def stored(value: Any, path: str) -> Any:
        if isinstance(value, Mapping) and STORED in value:
            sizes, shape = tuple(value["sizes"]), tuple(value["shape"])
            return StoredRows(folder, value[STORED], sizes, shape, value["dtype"])
        return _walked(value, path, stored)

    return stored(state, "")


def with_whole(state: Any, folder: Path) -> Any:
    """Returns a state in which whole tensors replace the descriptions of `without_rows`."""
    wanted: dict[str, Tensor] = {}

    def whole(value: Any, path: str) -> Any:
        if isinstance(value, StoredRows):
            found = value.empty(value.sizes)
            wanted.update(zip(value.names(), found.split(list(value.sizes)), strict=True))
            return found
        return _walked(value, path, whole)

    found = whole(with_stored(state, folder), "")
    _read(folder, wanted)
    return found


def _walked(value: Any, path: str, function: Callable[[Any, str], Any]) -> Any:
    """Returns a tree with the result of a function in place of each item."""
    if isinstance(value, list | tuple):
        return type(value)(function(item, f"{path}/{index}") for index, item in enumerate(value))
    if isinstance(value, Mapping):
        return {key: function(item, f"{path}/{key}") for key, item in value.items()}
    return value


class LatentState:
    """The parts of a trainer's state that have one row for each latent.

    Args:
        dictionary: The dictionary, whose latents are divided.
        optimizer: Its optimiser.
    """

    def __init__(self, dictionary: Dictionary, optimizer: torch.optim.Optimizer) -> None:
        assert dictionary.shard is not None  # a condition of this class
        self._shard: Shard = dictionary.shard
        self._blocks = latent_blocks(dictionary)
        names = {id(parameter): name for name, parameter in dictionary.named_parameters()}
        self._trained = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]

    def with_rows(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a state in which `LatentRows` replace this rank's tensors with one row for each latent."""

        def wrapped(value: Any, blocks: tuple[int, ...]) -> Any:
            is_rows = isinstance(value, Tensor) and value.ndim and len(value) == sum(_own_sizes(self._shard, blocks))
            return LatentRows(value, self._shard, blocks) if is_rows else value

        return self._mapped(state, wrapped)

    def own(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a state with this rank's rows in place of `StoredRows` and of whole tensors."""
        wanted: dict[str, Tensor] = {}
        folders: set[Path] = set()

        def own(value: Any, blocks: tuple[int, ...]) -> Any:
            if isinstance(value, StoredRows):
                sizes = _own_sizes(self._shard, blocks)
                found = value.empty(sizes)
                parts = zip(value.names(), found.split(sizes), value.sizes, strict=True)
                wanted.update({name: _part(part, size, self._shard) for name, part, size in parts})
                folders.add(value.folder)
                return found
            sizes = [self._shard.sizes[index] for index in blocks]
            if not isinstance(value, Tensor) or not value.ndim or len(value) != sum(sizes):
                return value
            parts = zip(value.split(sizes), blocks, strict=True)
            return torch.cat([part[self._shard.slices[index]] for part, index in parts])

        found = self._mapped(state, own)
        for folder in folders:
            _read(folder, wanted)
        return found

    def _mapped(self, state: Mapping[str, Any], function: Function) -> dict[str, Any]:
        """Returns a trainer's state with the result of a function in place of values that belong to latents."""
        everything = tuple(range(len(self._shard.sizes)))
        optimizer, good, counters = state["optimizer"], state["good"], state["counters"]
        moments = {
            index: {name: self._applied(self._trained[index], value, function) for name, value in values.items()}
            for index, values in optimizer["state"].items()
        }
        weights = good["dictionary"]
        return {
            **state,
            "dictionary": self._weights(state["dictionary"], function),
            "optimizer": {**optimizer, "state": moments},
            "counters": {**counters, "tokens_since_fired": function(counters["tokens_since_fired"], everything)},
            "good": {**good, "dictionary": None if weights is None else self._weights(weights, function)},
            "training_state": {name: function(value, everything) for name, value in state["training_state"].items()},
        }

    def _weights(self, values: Mapping[str, Any], function: Function) -> dict[str, Any]:
        return {name: self._applied(name, value, function) for name, value in values.items()}

    def _applied(self, name: str, value: Any, function: Function) -> Any:
        """Returns the result of a function if the weight of this name has one row per latent."""
        blocks = self._blocks.get(name)
        return value if blocks is None else function(value, blocks)


def _own_sizes(shard: Shard, blocks: tuple[int, ...]) -> list[int]:
    return [shard.own_sizes[index] for index in blocks]


def _part(own: Tensor, size: int, shard: Shard) -> Tensor:
    """Returns the rows of this rank as a part of a whole tensor of ``size`` rows, a ``DTensor``."""
    # A late import, because few runs need it.
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor import Shard as Rows

    shape = torch.Size((size, *own.shape[1:]))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(own, shard.peers.mesh, [Rows(0)], run_check=False, shape=shape, stride=stride)


def _read(folder: Path, rows: dict[str, Tensor]) -> None:
    if rows:
        from sparsedict.storage.rows import read_rows

        read_rows(folder, rows)
