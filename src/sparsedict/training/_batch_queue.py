"""The batches of a run, with the next ones read ahead where a dictionary needs them."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparsedict.batches import UNNAMED, Activations, point_name
from sparsedict.data import Batches

N_SAMPLED = 8
"""Rows of a batch by which a checkpoint knows it again."""

NEAR = 0.05
"""Relative distance up to which rows are the same but for rounding, as on another machine."""


class BatchQueue:
    """Serves batches, and can be put back to the one that it served last.

    A checkpoint holds the place of the last batch that was trained on, and some of its rows. Whoever goes on reads that
    batch again and compares: other data, or data in another order, is refused instead of trained on.

    Args:
        batches: What is served.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self._waiting: deque[tuple[dict[str, Any], Activations]] = deque()
        self._place = batches.state_dict()
        self._latest: Activations | None = None

    def ahead(self, index: int) -> Activations:
        """Returns the batch that will be served after ``index`` others."""
        while len(self._waiting) <= index:
            place = self.batches.state_dict()
            self._waiting.append((place, self.batches.next_batch()))
        return self._waiting[index][1]

    def next_batch(self) -> Activations:
        """Serves a batch."""
        self.ahead(0)
        self._place, self._latest = self._waiting.popleft()
        return self._latest

    def state_dict(self) -> dict[str, Any]:
        """Returns the place of the batch that was served last, some of its rows, and the places read ahead."""
        ahead = [place for place, _ in self._waiting]
        if self._latest is None:
            return {"place": ahead[0] if ahead else self._place, "rows": None, "ahead": ahead}
        return {"place": self._place, "rows": _sample(self._latest), "ahead": ahead}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to the place behind the batch that was served last.

        Raises:
            ValueError: If the data gives another batch there.
        """
        n_items = state["place"]["position"][0]
        if self.batches.replays and n_items:
            warnings.warn(
                f"`data` can't go to where the run was stopped: its first {n_items:,} items are read again, which must "
                "be the same in the same order.",
                stacklevel=2,
            )
        self.batches.load_state_dict(state["place"])
        self._place = dict(state["place"])
        if state["rows"] is not None:
            now = _sample(self.next_batch())
            _compare(_migrated(state["rows"], now), now)
        # Read ahead again: data that draws from the global generator had advanced it by then.
        for place in state.get("ahead", ()):
            random = (place["source"] or {}).get("random")
            if random is not None:
                torch.set_rng_state(random[1])
            self.ahead(len(self._waiting))


def _sample(batch: Activations) -> dict[str, Tensor]:
    count = min(batch.n_tokens, N_SAMPLED)
    index = torch.linspace(0, batch.n_tokens - 1, count, device="cpu", dtype=torch.float32).round().long()
    return {name: value[index.to(value.device)].cpu() for name, value in batch.items()}


def _migrated(rows: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns rows of a checkpoint of version 0.1, where a tensor without a name was inputs and outputs alike."""
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
        if old is None or new is None or old.shape != new.shape or not _near(old, new):
            raise ValueError(
                f"`data` must be what the run was stopped on, but its last batch has other {name} now. Give the same "
                "data, from its beginning and in the same order, or another `checkpoint` folder to begin anew."
            )
        is_same &= torch.allclose(old.double(), new.double(), rtol=0.0, atol=0.0, equal_nan=True)
    if not is_same:
        warnings.warn(
            "`data` gives activations that differ in rounding from those of the run that was stopped: what follows "
            "won't equal, to the bit, what it would have been.",
            stacklevel=4,
        )


def _near(old: Tensor, new: Tensor) -> bool:
    old, new = old.double().nan_to_num(), new.double().nan_to_num()
    return bool((old - new).norm() <= NEAR * old.norm())
