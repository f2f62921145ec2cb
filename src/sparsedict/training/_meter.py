from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparsedict.dictionaries import ForwardPass
from sparsedict.latents import fires
from sparsedict.training._state import attributes, restore

KEPT = ("_terms", "_counts", "_target_sum", "_n_steps", "_n_tokens", "_first_bad")
ROWS = 32
"""Rows summed before the sum goes on in float64."""


class Meter:
    """Sums what one dictionary's steps measure, on the device, and reads it only when asked.

    Attributes:
        last_l0: Latents that fired in the last step, mean over tokens.

    Args:
        names: Names of the penalties.
        d_out: Width of the targets.
        device: Where the sums are kept.
    """

    def __init__(self, names: list[str], d_out: int, device: torch.device) -> None:
        self._names = names
        self._terms = torch.zeros(2 + len(names), dtype=torch.float64, device=device)
        self._counts = torch.zeros(3, dtype=torch.float64, device=device)
        self._target_sum = torch.zeros(d_out, dtype=torch.float64, device=device)
        self._n_steps = 0
        self._n_tokens = 0
        # The first step whose objective wasn't finite; the largest integer means none.
        self.last_l0 = torch.full((), torch.nan, dtype=torch.float64, device=device)
        self._first_bad = torch.full((), torch.iinfo(torch.int64).max, dtype=torch.int64, device=device)

    def state_dict(self) -> dict[str, Any]:
        """Returns the sums since the last reading."""
        return attributes(self, KEPT)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from other sums."""
        restore(self, state, KEPT)

    @torch.no_grad()
    def add(self, out: ForwardPass, terms: list[Tensor]) -> None:
        """Adds a step: its objective, loss and penalties, and the sums that FVU and L0 need."""
        stacked = torch.stack([term.detach().double() for term in terms])
        bad = torch.where(torch.isfinite(stacked[0]), torch.iinfo(torch.int64).max, out.step)
        self._first_bad = torch.minimum(self._first_bad, bad)
        self._terms += stacked
        targets = out.targets.detach()
        error = _squares(out.reconstruction.detach() - targets)
        active = fires(out.values.detach()).sum().double()
        self.last_l0 = active / out.n_tokens
        self._counts += torch.stack([error, _squares(targets), active])
        self._target_sum += _column_sums(targets)
        self._n_steps += 1
        self._n_tokens += out.n_tokens

    def read(self) -> tuple[dict[str, float], int | None]:
        """Returns the means since the last reading, and the first step that wasn't finite; starts anew."""
        variance = self._counts[1] - self._target_sum.square().sum() / self._n_tokens
        numbers = torch.cat([self._terms, self._counts, variance[None], self._first_bad.double()[None]]).tolist()
        n_terms = len(self._terms)
        terms = [value / self._n_steps for value in numbers[:n_terms]]
        error, _, active, spread, first_bad = numbers[n_terms:]
        means = {
            "objective": terms[0],
            "loss": terms[1],
            "fvu": error / spread if spread > 0 else float("nan"),
            "l0": active / self._n_tokens,
        }
        means |= {f"penalty:{name}": value for name, value in zip(self._names, terms[2:], strict=True)}
        for total in (self._terms, self._counts, self._target_sum):
            total.zero_()
        self._n_steps = self._n_tokens = 0
        return means, None if first_bad >= 2**62 else int(first_bad)


def _squares(values: Tensor) -> Tensor:
    """Returns the sum of squares, without an array of them: rows' in their own precision, all in float64."""
    return torch.linalg.vector_norm(values, dim=-1, dtype=_wide(values)).double().square().sum()


def _column_sums(values: Tensor) -> Tensor:
    """Returns the sum of rows: of few in their own precision, of these sums in float64, far faster than all in it."""
    n_whole = len(values) // ROWS * ROWS
    few = values[:n_whole].unflatten(0, (n_whole // ROWS, ROWS)).sum(1, dtype=_wide(values))
    return few.sum(0, dtype=torch.float64) + values[n_whole:].sum(0, dtype=torch.float64)


def _wide(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)
