"""A queue of the batches of a run, which can read upcoming batches in advance and can be resumed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.batches import UNNAMED, Activations, point_name
from sparsedict.data import Batches
from sparsedict.parallel import Alone, Parallel
from sparsedict.training._interrupt import Interrupt

ALONE = Alone()
N_SAMPLED = 8
"""Rows of the last batch that a checkpoint stores, to verify the data on resume."""

TOLERANCE = 0.05
"""Largest relative distance between equal rows that were computed with different rounding."""


class BatchQueue:
    """Returns batches in order, and can be restored to the last returned batch.

    A checkpoint stores the position of the last training batch and some of its rows. On resume, that batch is read
    again and compared with the stored rows. Different data, or the same data in another order, raises an error.

    Attributes:
        n_latest: Number of tokens over all ranks of the batch that `next_batch` returned last.

    Args:
        batches: The source of the batches.
        parallel: The ranks of the run.
        groups: Groups of points that a dictionary reads or writes together. Their activations are joined when a batch
            is returned, so that a step needs no copy of them.
    """

    def __init__(self, batches: Batches, parallel: Parallel = ALONE, groups: Sequence[tuple[str, ...]] = ()) -> None:
        self._parallel = parallel
        self.batches = batches
        self._groups = groups
        self._waiting: deque[tuple[dict[str, Any], Activations, int]] = deque()
        self._position = batches.state_dict()
        self._latest: Activations | None = None
        self.n_latest: int = 0

    def peek(self, index: int) -> Activations:
        """Returns the batch that `next_batch` will return after ``index`` others, without removing it."""
        while len(self._waiting) <= index:
            place = self.batches.state_dict()
            batch = self.batches.next_batch()
            self._waiting.append((place, batch, self.batches.n_tokens_yielded - place["n_served"]))
        return self._waiting[index][1]

    def size(self, index: int) -> int:
        """Returns the number of tokens over all ranks of the batch that ``peek(index)`` returns."""
        self.peek(index)
        return self._waiting[index][2]

    def next_batch(self, interrupt: Interrupt | None = None) -> Activations:
        """Returns the next batch and removes it from the queue.

        Args:
            interrupt: Signals of the run. A signal stops the computation of the batch, which then stays in the queue.
        """
        interrupt = Interrupt() if interrupt is None else interrupt
        # Other ranks would wait for this rank's part of the step or of the batch.
        interrupt.is_waiting = self._parallel.n_ranks == 1 and self.batches.can_stop
        try:
            self.peek(0)
        finally:
            interrupt.is_waiting = False
        self._position, batch, self.n_latest = self._waiting.popleft()
        self._latest = batch.joined(self._groups) if self._groups else batch
        return self._latest

    def state_dict(self) -> dict[str, Any]:
        """Returns the position and some rows of the last returned batch, and the positions of batches read ahead."""
        ahead = [place for place, _, _ in self._waiting]
        if self._latest is None:
            return {"place": ahead[0] if ahead else self._position, "rows": None, "ahead": ahead}
        return {"place": self._position, "rows": self._sample(), "ahead": ahead}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Moves to the position after the last returned batch.

        Raises:
            ValueError: If the data contains a different batch at that position.
        """
        n_items = state["place"]["position"][0]
        if self.batches.replays and n_items:
            checks.warn(
                f"`data` can't go to where the run was stopped, so its first {n_items:,} items are read again. They "
                "must be the same items in the same order."
            )
        self.batches.load_state_dict(state["place"])
        self._position = dict(state["place"])
        if state["rows"] is not None:
            self.next_batch()
            now = self._sample()
            _compare(_migrate(state["rows"], now), now)
        # Batches that had been read ahead are read again, because reading may draw from the global generator.
        for place in state.get("ahead", ()):
            random = (place["source"] or {}).get("random")
            if random is not None:
                torch.set_rng_state(random[1])
            self.peek(len(self._waiting))

    def _sample(self) -> dict[str, Tensor]:
        """Returns some rows of the last returned batch, over all ranks."""
        batch, parallel = self._latest, self._parallel
        assert batch is not None  # a batch was returned
        count = min(self.n_latest, N_SAMPLED)
        index = torch.linspace(0, self.n_latest - 1, count, device="cpu", dtype=torch.float32).round().long()
        if parallel.n_parts == 1:
            return {name: value[index.to(value.device)].cpu() for name, value in batch.items()}
        is_own, rows = index % parallel.n_parts == parallel.part, index // parallel.n_parts
        is_own &= rows < batch.n_tokens
        sample = {}
        for name, value in batch.items():
            own = torch.zeros(count, value.shape[1], dtype=value.dtype, device="cpu")
            own[is_own] = value[rows[is_own].to(value.device)].cpu()
            sample[name] = parallel.sum(own)
        return sample


def _migrate(rows: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the rows of a checkpoint with present names; version 0.1 stored one unnamed tensor under two names."""
    migrated = dict(rows)
    for name in now:
        site, _, point = name.rpartition(".")
        if point == UNNAMED and name not in rows:
            inputs = migrated.pop(point_name(site, "inputs"), None)
            migrated.pop(point_name(site, "outputs"), None)
            if inputs is not None:
                migrated[name] = inputs
    return migrated


def _compare(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> None:
    is_same = True
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if old is None or new is None or old.shape != new.shape or not _is_close(old, new):
            raise ValueError(
                f"`data` must be the data of the interrupted run, but the {name} of its last batch are different. "
                "Pass the same data, from its beginning and in the same order, or pass another `checkpoint` folder to "
                "start a new run."
            )
        is_same &= torch.allclose(old.double(), new.double(), rtol=0.0, atol=0.0, equal_nan=True)
    if not is_same:
        checks.warn(
            "`data` contains activations that differ in rounding from those of the interrupted run. The result will "
            "not be bit-identical to that of an uninterrupted run."
        )


def _is_close(old: Tensor, new: Tensor) -> bool:
    old, new = old.double().nan_to_num(), new.double().nan_to_num()
    return bool((old - new).norm() <= TOLERANCE * old.norm())
