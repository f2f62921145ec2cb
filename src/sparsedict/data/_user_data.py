"""Activations that are in memory already, or come in batches from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain, islice
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.batches import ROLES, UNNAMED, Activations, identity
from sparsedict.data._batches import BEGINNING, Batches, Chunk, Position, RowSource
from sparsedict.seeds import permutation
from sparsedict.torch_state import InCallersState, in_own_state

Pair = tuple[Float[Tensor, "n_tokens d_in"], Float[Tensor, "n_tokens d_out"]]

DEFAULT_BATCH_SIZE = 4096
DEFAULT_SEED = 0


@runtime_checkable
class Batched(Protocol):
    """Data that has a batch size and a seed of its own, such as an `ActivationStream`."""

    def batches(self, *, repeat: bool = True) -> Batches: ...


@runtime_checkable
class Positioned(Protocol):
    """An iterable of batches that knows where it stands, such as torchdata's ``StatefulDataLoader``."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


@in_own_state
def as_batches(data: Any, *, batch_size: int | None = None, seed: int | None = None, repeat: bool = True) -> Batches:
    """Returns batches of any form of data, starting anew.

    Args:
        data: An `ActivationStream` or `ActivationStore`; a tensor ``[n_tokens, d]``, which stands for any point; a
            tuple of two tensors, inputs and outputs; `Activations` of all tokens; a dict of tensors by point
            (``"0.inputs"``), or of tensors, tuples or `Activations` by site; or any iterable of these as batches. To
            continue at a later position, an iterable is read again up to there (with PyTorch's random numbers of the
            first time), unless it is a sequence or has ``state_dict`` and ``load_state_dict``, after which its ``iter``
            continues behind the batch that it gave last.
        batch_size: Tokens per batch, 4,096 by default. Data that comes in batches has its own.
        seed: Of the shuffle, 0 by default. A stream has its own.
        repeat: Whether to go on with another pass, shuffled anew, after the last token.

    Raises:
        TypeError: If ``data`` is none of these, or holds integers where activations belong.
        ValueError: If it is empty, holds NaN, or has a batch size or seed of its own and is given another.

    Example:
        >>> import torch
        >>> batches = as_batches(torch.randn(10, 3), batch_size=4)
        >>> batches.points, batches.n_tokens, batches.next_batch().n_tokens
        (('activations',), 10, 4)
    """
    if isinstance(data, Batched):
        _check_omitted(batch_size, "batch_size", data, "the stream")
        _check_omitted(seed, "seed", data, "the stream")
        return data.batches(repeat=repeat)
    held = _as_one_batch(data)
    if held is not None:
        size = checks.at_least("batch_size", DEFAULT_BATCH_SIZE if batch_size is None else batch_size, 1)
        used_seed = checks.at_least("seed", DEFAULT_SEED if seed is None else seed, 0)
        return Batches(_InMemoryRows(held, used_seed), batch_size=size, seed=used_seed, repeat=repeat)
    if hasattr(data, "to_numpy"):
        raise TypeError(
            f"`data` must be a tensor or an array [n_tokens, d], got a {type(data).__name__}. Give `data.to_numpy()`."
        )
    if not isinstance(data, Iterable) or isinstance(data, str | bytes):
        raise TypeError(
            "`data` must be an ActivationStream, a tensor [n_tokens, d], a tuple of two tensors (inputs, outputs), "
            f"Activations, a dict of these by site, or an iterable of batches, got {type(data).__name__}."
        )
    shuffled = isinstance(data, Sequence)
    used_seed = checks.at_least("seed", DEFAULT_SEED if seed is None else seed, 0) if shuffled else None
    rows = _IterableRows(data, used_seed)
    _check_omitted(batch_size, "batch_size", data, "whoever makes the batches")
    return Batches(rows, batch_size=None, seed=used_seed, repeat=repeat)


def _check_omitted(value: int | None, name: str, data: object, owner: str) -> None:
    if value is not None:
        raise ValueError(
            f"`{name}` must be left out for data that has its own, got {name}={value} with {type(data).__name__}: "
            f"give it to {owner} only."
        )


def _as_one_batch(data: Any) -> Activations | None:
    """Returns everything as one batch, or None where ``data`` comes in batches."""
    if not isinstance(data, Mapping | Tensor | np.ndarray | tuple):
        return None
    if isinstance(data, Mapping) and not data:
        raise ValueError("`data` must name at least one site, got an empty mapping.")
    held = _as_batch("data", data)
    if not held.n_tokens:
        first = next(iter(held.values()))
        raise ValueError(f"`data` must hold at least one token, got none: shape {tuple(first.shape)}.")
    for name, part in _distinct(held).items():
        label = "data" if name == UNNAMED else f"data[{name!r}]"
        checks.finite(label, part, "Look where they come from before training on the rest.")
    return held


def _as_batch(name: str, value: Any) -> Activations:
    """Returns any form of a batch as rows by point."""
    if isinstance(value, Activations):
        return value.batch().detach()
    if not isinstance(value, Mapping):
        return _of_one_site(name, value)
    by_site: dict[str, Activations] = {}
    points: dict[str, Tensor] = {}
    for key, own in value.items():
        label = f"{name}[{key!r}]"
        if str(key).rpartition(".")[2] in ROLES and isinstance(own, Tensor | np.ndarray):
            points[str(key)] = _activations(label, own)
        else:
            by_site[str(key)] = _of_one_site(label, own)
    lengths = sorted({len(part) for part in points.values()} | {own.n_tokens for own in by_site.values()})
    if len(lengths) > 1:
        raise ValueError(f"`{name}` must hold the same tokens for all sites, got {lengths} tokens.")
    if not by_site:
        return Activations(points)
    joined = Activations.from_sites(by_site)
    return Activations({**points, **joined}, tokens=joined.tokens, positions=joined.positions)


def _of_one_site(name: str, value: Any) -> Activations:
    if isinstance(value, Activations):
        return value.batch().detach()
    parts = list(value) if isinstance(value, tuple | list) else [value]
    if len(parts) not in (1, 2) or not all(isinstance(part, Tensor | np.ndarray) for part in parts):
        raise TypeError(
            f"`{name}` must be Activations, a tensor [n_tokens, d] or a tuple of two (inputs, outputs), "
            f"got {_kind(value)}.{_remedy(name, value)}"
        )
    tensors = [_activations(name, part) for part in parts]
    if len(tensors) == 1:
        return Activations({UNNAMED: tensors[0]})
    if len(tensors[0]) != len(tensors[1]):
        raise ValueError(
            f"`{name}` must hold inputs and outputs of the same tokens, got {len(tensors[0])} and {len(tensors[1])}."
        )
    return Activations({"inputs": tensors[0], "outputs": tensors[1]})


def _distinct(batch: Activations) -> dict[str, Tensor]:
    """Returns one point for each distinct tensor."""
    found: dict[object, str] = {}
    for name, value in batch.items():
        found.setdefault(identity(value), name)
    return {name: batch[name] for name in found.values()}


def _shared(batch: Activations) -> dict[str, str]:
    """Returns the points whose tensor is that of an earlier point."""
    first: dict[object, str] = {}
    owners = {name: first.setdefault(identity(value), name) for name, value in batch.items()}
    return {name: owner for name, owner in owners.items() if name != owner}


def _activations(name: str, value: Tensor | np.ndarray) -> Tensor:
    # Detached, or gradients would flow on into the model that the activations are from.
    tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value.detach()
    if not tensor.is_floating_point():
        raise TypeError(
            f"`{name}` must hold floating-point activations [n_tokens, d], got a tensor of {tensor.dtype}. Tokens go "
            "to `ActivationStream(site, tokens)`, which turns them into activations."
        )
    if tensor.ndim != 2:
        raise ValueError(f"`{name}` must have the shape [n_tokens, d], got {tuple(tensor.shape)}.")
    return tensor


def _remedy(name: str, value: object) -> str:
    first = value[0] if isinstance(value, list | tuple) and value else value
    if isinstance(first, str | int) or name.endswith(("'input_ids'", "'text'")):
        return " Tokens and texts go to `ActivationStream(site, ...)`, which turns them into activations."
    return ""


def _kind(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {len(value)} ({', '.join(sorted({type(part).__name__ for part in value}))})"
    return type(value).__name__


class _InMemoryRows(RowSource):
    """Rows in memory: each pass serves all of them in a new order."""

    def __init__(self, batch: Activations, seed: int) -> None:
        self._seed = seed
        self._held = batch
        self.points = tuple(batch)
        self.shared = _shared(batch)
        self.n_tokens = batch.n_tokens
        self.origin = f"{self.n_tokens:,} tokens in memory, shuffled anew for each pass"

    def chunks(self, epoch: int, start: Position, most: int | None = None) -> Iterator[Chunk]:
        if start[0] == 0:
            device = next(iter(self._held.values())).device
            order = permutation(self.n_tokens or 0, self._seed, epoch).to(device)
            yield Chunk(self._held, order, (0, 0), (1, 0))


class _IterableRows(RowSource):
    """Batches that somebody else has cut: a sequence in its order and then reshuffled, any other iterable as it is."""

    grouped = True

    def __init__(self, data: Iterable[Any], seed: int | None) -> None:
        self._seed = seed
        self._items = data
        self._positioned = data if seed is None and isinstance(data, Positioned) else None
        self._goes_on = False
        self._random = torch.get_rng_state()
        self._again: tuple[Tensor, Tensor] | None = None
        self.replays = seed is None and self._positioned is None
        iterator = InCallersState(data)
        self._once = iterator.is_itself
        self._n_read = 0
        first = next(iterator, None)
        if first is None:
            raise ValueError(f"`data` must give at least one batch, got an empty {type(data).__name__}.")
        if self._once:
            self._items = chain([first], iterator)
        sample = _as_batch("a batch", first)
        self.points, self.shared = tuple(sample), _shared(sample)
        later = (
            "an iterator that can be read once"
            if self._once
            else "later passes as it gives them"
            if seed is None
            else "reshuffled after the first pass"
        )
        self.origin = f"batches from a {type(data).__name__}, {later}"

    def chunks(self, epoch: int, start: Position, most: int | None = None) -> Iterator[Chunk]:
        for index, item in enumerate(self._pass(epoch, start[0]), start[0]):
            batch = _as_batch("a batch", item)
            if set(batch) != set(self.points):
                raise ValueError(
                    f"`data` must give the same points in each batch, got {tuple(batch)} and {self.points}."
                )
            yield Chunk(batch, None, (index, 0), (index + 1, 0))

    def _pass(self, epoch: int, start: int) -> Iterator[Any]:
        if self._seed is not None:
            items = cast(Sequence[Any], self._items)
            order = permutation(len(items), self._seed, epoch).tolist() if epoch else range(len(items))
            return InCallersState(items[index] for index in order[start:])
        if self._goes_on:
            self._goes_on = False
            return InCallersState(cast(Iterable[Any], self._positioned))
        if self._once and (epoch or start < self._n_read):
            raise ValueError(
                f"`data` ran out after {self._n_read} batches and can't be read again, for it is an iterator. Give an "
                "object whose iter() starts anew, such as a list or a DataLoader, or ask for fewer tokens."
            )
        return self._read(start)

    def _read(self, start: int) -> Iterator[Any]:
        """Serves from batch ``start`` on; those before are read with the random numbers of the first time."""
        before, after = self._again or (torch.get_rng_state(), None)
        self._again = None
        self._random = before
        torch.set_rng_state(before)
        items = InCallersState(self._items)
        for _ in islice(items, start):
            self._n_read += 1
        if start and after is not None:
            torch.set_rng_state(after)
        for item in items:
            self._n_read += 1
            yield item

    def state(self, position: Position) -> Any:
        if self._seed is not None:
            return None
        if self._positioned is None:
            # A loader that shuffles, or whatever draws its batches, draws from the global generator.
            now = torch.get_rng_state()
            return {"random": (now if position == BEGINNING else self._random, now)}
        # At its beginning a pass needs none, and an iterator has given its first batch away for a look.
        return None if position == BEGINNING else {"own": deepcopy(self._positioned.state_dict())}

    def restore(self, state: Any) -> None:
        if self._positioned is not None and "own" in state:
            self._positioned.load_state_dict(state["own"])
            self._goes_on = True
        elif self.replays and "random" in state:
            self._again = state["random"]
        else:
            super().restore(state)
