"""Turns all forms of training data into `Batches`: streams, tensors in memory, and iterables of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from itertools import chain, islice
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.batches import Activations
from sparsedict.data._activation_forms import as_batch, as_one_batch, shared_points
from sparsedict.data._batches import Batches
from sparsedict.data._row_source import BEGINNING, Chunk, Position, RowSource
from sparsedict.parallel import Alone, Parallel
from sparsedict.seeds import permutation
from sparsedict.torch_state import InCallersState, in_own_state

ALONE = Alone()
DEFAULT_BATCH_SIZE = 4096
DEFAULT_SEED = 0


@runtime_checkable
class Batched(Protocol):
    """Data with its own batch size and seed, such as an `ActivationStream`."""

    def batches(self, *, repeat: bool = True, parallel: Parallel = ...) -> Batches: ...


@runtime_checkable
class Positioned(Protocol):
    """An iterable of batches with a resumable state, such as torchdata's ``StatefulDataLoader``."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


@in_own_state
def as_batches(
    data: Any,
    *,
    batch_size: int | None = None,
    seed: int | None = None,
    repeat: bool = True,
    parallel: Parallel = ALONE,
) -> Batches:
    """Returns batches of any form of data, from the beginning.

    Args:
        data: An `ActivationStream` or `ActivationStore`; a tensor ``[n_tokens, d]``, which matches any point; a tuple
            of two tensors, inputs and outputs; `Activations` of all tokens; a dict of tensors by point
            (``"0.inputs"``), or of tensors, tuples or `Activations` by site; or any iterable of these as batches.
            To resume an iterable, it is read again up to the position, with the same random numbers of PyTorch.
            Sequences resume without reading. So do iterables with ``state_dict`` and ``load_state_dict``. Once their
            state is loaded, ``iter`` must continue after the last batch.
        batch_size: Tokens per batch, 4,096 by default. Must be omitted for streams and iterables of batches.
        seed: Seed of the shuffle, 0 by default. Must be omitted for streams.
        repeat: Whether to make further passes, with new shuffles, after the last token.
        parallel: The ranks of the run. Each receives its part of every batch.

    Raises:
        TypeError: If ``data`` has none of these forms, or holds integers.
        ValueError: If ``data`` is empty, holds NaN, or has its own batch size or seed and another is passed.

    Example:
        >>> import torch
        >>> batches = as_batches(torch.randn(10, 3), batch_size=4)
        >>> batches.points, batches.n_tokens, batches.next_batch().n_tokens
        (('activations',), 10, 4)
    """
    checks.instance("parallel", parallel, Parallel, "`sd.DataParallel()` or another Parallel")
    if isinstance(data, Batched):
        _check_omitted(batch_size, "batch_size", data, "the stream")
        _check_omitted(seed, "seed", data, "the stream")
        return data.batches(repeat=repeat) if parallel.n_parts == 1 else data.batches(repeat=repeat, parallel=parallel)
    held = as_one_batch(data)
    if held is not None:
        size = checks.at_least("batch_size", DEFAULT_BATCH_SIZE if batch_size is None else batch_size, 1)
        used_seed = checks.at_least("seed", DEFAULT_SEED if seed is None else seed, 0)
        return Batches(
            _InMemoryRows(held, used_seed), batch_size=size, seed=used_seed, repeat=repeat, parallel=parallel
        )
    if hasattr(data, "to_numpy"):
        raise TypeError(
            f"`data` must be a tensor or an array [n_tokens, d], got a {type(data).__name__}. Pass `data.to_numpy()`."
        )
    if not isinstance(data, Iterable) or isinstance(data, str | bytes):
        raise TypeError(
            "`data` must be an ActivationStream, a tensor [n_tokens, d], a tuple of two tensors (inputs, outputs), "
            f"Activations, a dict of these by site, or an iterable of batches, got {type(data).__name__}."
        )
    shuffled = isinstance(data, Sequence)
    used_seed = checks.at_least("seed", DEFAULT_SEED if seed is None else seed, 0) if shuffled else None
    rows = _IterableRows(data, used_seed)
    _check_omitted(batch_size, "batch_size", data, "the object that creates the batches")
    return Batches(rows, batch_size=None, seed=used_seed, repeat=repeat, parallel=parallel)


def _check_omitted(value: int | None, name: str, data: object, owner: str) -> None:
    if value is not None:
        raise ValueError(
            f"`{name}` must be omitted for data with its own, got {name}={value} with {type(data).__name__}. "
            f"Pass it to {owner} instead."
        )


class _InMemoryRows(RowSource):
    """Rows in memory, which each pass returns in a new order."""

    def __init__(self, batch: Activations, seed: int) -> None:
        self._seed = seed
        self._held = batch
        self.points = tuple(batch)
        self.shared = shared_points(batch)
        self.n_tokens = batch.n_tokens
        self.origin = f"{self.n_tokens:,} tokens in memory, shuffled anew for each pass"

    def chunks(self, epoch: int, start: Position, max_rows: int | None = None) -> Iterator[Chunk]:
        if start[0] == 0:
            device = next(iter(self._held.values())).device
            order = permutation(self.n_tokens or 0, self._seed, epoch).to(device)
            yield Chunk(self._held, order, (0, 0), (1, 0))


class _IterableRows(RowSource):
    """Ready-made batches. Sequences are shuffled after the first pass. Other iterables keep their order."""

    grouped = True

    def __init__(self, data: Iterable[Any], seed: int | None) -> None:
        self._seed = seed
        self._items = data
        self._positioned = data if seed is None and isinstance(data, Positioned) else None
        self._resumes = False
        self._random = torch.get_rng_state()
        self._resume_random: tuple[Tensor, Tensor] | None = None
        self.replays = seed is None and self._positioned is None
        iterator = InCallersState(data)
        self._once = iterator.is_itself
        self._n_read = 0
        first = next(iterator, None)
        if first is None:
            raise ValueError(f"`data` must have at least one batch, got an empty {type(data).__name__}.")
        if self._once:
            self._items = chain([first], iterator)
        sample = as_batch("a batch", first)
        self.points, self.shared = tuple(sample), shared_points(sample)
        later = (
            "an iterator that can be read once"
            if self._once
            else "later passes as it gives them"
            if seed is None
            else "reshuffled after the first pass"
        )
        self.origin = f"batches from a {type(data).__name__}, {later}"

    def chunks(self, epoch: int, start: Position, max_rows: int | None = None) -> Iterator[Chunk]:
        for index, item in enumerate(self._pass(epoch, start[0]), start[0]):
            batch = as_batch("a batch", item)
            if set(batch) != set(self.points):
                raise ValueError(
                    f"`data` must have the same points in each batch, got {tuple(batch)} and {self.points}."
                )
            yield Chunk(batch, None, (index, 0), (index + 1, 0))

    def _pass(self, epoch: int, start: int) -> Iterator[Any]:
        if self._seed is not None:
            items = cast(Sequence[Any], self._items)
            order = permutation(len(items), self._seed, epoch).tolist() if epoch else range(len(items))
            return InCallersState(items[index] for index in order[start:])
        if self._resumes:
            self._resumes = False
            return InCallersState(cast(Iterable[Any], self._positioned))
        if self._once and (epoch or start < self._n_read):
            raise ValueError(
                f"`data` must be re-iterable for another pass, got an iterator, which ended after {self._n_read} "
                "batches. Pass a list or a DataLoader instead, or train on fewer tokens."
            )
        return self._read(start)

    def _read(self, start: int) -> Iterator[Any]:
        """Yields batches from ``start`` on. Earlier batches are read with the original random numbers."""
        before, after = self._resume_random or (torch.get_rng_state(), None)
        self._resume_random = None
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
            # A shuffling loader draws from the global generator.
            now = torch.get_rng_state()
            return {"random": (now if position == BEGINNING else self._random, now)}
        # The beginning of a pass needs no state. By then an iterator has already returned its first batch for
        # inspection.
        return None if position == BEGINNING else {"own": deepcopy(self._positioned.state_dict())}

    def restore(self, state: Any) -> None:
        if self._positioned is not None and "own" in state:
            self._positioned.load_state_dict(state["own"])
            self._resumes = True
        elif self.replays and "random" in state:
            self._resume_random = state["random"]
        else:
            super().restore(state)
