"""A queue of the batches of a run, which can read upcoming batches in advance and can be resumed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.batches import UNNAMED, Activations, point_name
from sparsedict.data import Batches
from sparsedict.training._interrupt import Interrupt

N_SAMPLED = 8
"""Rows of the last batch that a checkpoint stores, to verify the data on resume."""

TOLERANCE = 0.05
"""Largest relative distance between equal rows that were computed with different rounding."""


class BatchQueue:
    """Returns batches in order, and can be restored to the last returned batch.

    A checkpoint stores the position of the last training batch and some of its rows. On resume, that batch is read
    again and compared with the stored rows. Different data, or the same data in another order, raises an error.

    Args:
        batches: The source of the batches.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self._waiting: deque[tuple[dict[str, Any], Activations]] = deque()
        self._position = batches.state_dict()
        self._latest: Activations | None = None

    def peek(self, index: int) -> Activations:
        """Returns the batch that `next_batch` will return after ``index`` others, without removing it."""
        while len(self._waiting) <= index:
            place = self.batches.state_dict()
            self._waiting.append((place, self.batches.next_batch()))
        return self._waiting[index][1]

    def next_batch(self, interrupt: Interrupt | None = None) -> Activations:
        """Returns the next batch and removes it from the queue.

        Args:
            interrupt: Signals of the run. A signal stops the computation of the batch, which then stays in the queue.
        """
        interrupt = Interrupt() if interrupt is None else interrupt
        interrupt.is_waiting = True
        try:
            self.peek(0)
        finally:
            interrupt.is_waiting = False
        self._position, self._latest = self._waiting.popleft()
        return self._latest

    def state_dict(self) -> dict[str, Any]:
        """Returns the position and some rows of the last returned batch, and the positions of batches read ahead."""
        ahead = [place for place, _ in self._waiting]
        if self._latest is None:
            return {"place": ahead[0] if ahead else self._position, "rows": None, "ahead": ahead}
        return {"place": self._position, "rows": _sample(self._latest), "ahead": ahead}

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
            now = _sample(self.next_batch())
            _compare(_migrate(state["rows"], now), now)
        # Batches that had been read ahead are read again, because reading may draw from the global generator.
        for place in state.get("ahead", ()):
            random = (place["source"] or {}).get("random")
            if random is not None:
                torch.set_rng_state(random[1])
            self.peek(len(self._waiting))


def _sample(batch: Activations) -> dict[str, Tensor]:
    count = min(batch.n_tokens, N_SAMPLED)
    index = torch.linspace(0, batch.n_tokens - 1, count, device="cpu", dtype=torch.float32).round().long()
    return {name: value[index.to(value.device)].cpu() for name, value in batch.items()}


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
