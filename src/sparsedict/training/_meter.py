"""Sums of the measurements of training steps, kept on the device until a record is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparsedict.dictionaries import ForwardPass
from sparsedict.latents import fires
from sparsedict.training._state import attributes, restore

STATE = ("_terms", "_counts", "_target_sum", "_n_steps", "_n_tokens", "_first_bad")
ROWS = 32
"""Rows that are summed in their own precision before the sum continues in float64."""


class Meter:
    """Sums the measurements of training steps on the device. Only `read` copies them to the CPU.

    Attributes:
        last_l0: Number of active latents in the last step, mean over tokens.

    Args:
        names: Names of the penalties.
        d_out: Width of the targets.
        device: Device of the sums.
    """

    def __init__(self, names: list[str], d_out: int, device: torch.device) -> None:
        self._names = names
        self._terms = torch.zeros(2 + len(names), dtype=torch.float64, device=device)
        self._counts = torch.zeros(3, dtype=torch.float64, device=device)
        self._target_sum = torch.zeros(d_out, dtype=torch.float64, device=device)
        self._n_steps = 0
        self._n_tokens = 0
        # The first step with an objective that isn't finite. The largest integer means that there is none.
        self.last_l0 = torch.full((), torch.nan, dtype=torch.float64, device=device)
        self._first_bad = torch.full((), torch.iinfo(torch.int64).max, dtype=torch.int64, device=device)

    def state_dict(self) -> dict[str, Any]:
        """Returns the sums since the last call of `read`."""
        return attributes(self, STATE)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the sums from the result of `state_dict`."""
        restore(self, state, STATE)

    @torch.no_grad()
    def add(self, out: ForwardPass, terms: list[Tensor]) -> None:
        """Adds the objective, loss and penalties of a step, and its sums for FVU and L0."""
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
        """Returns the means since the last call and the first non-finite step, if any, and resets the sums."""
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
    """Returns the sum of squares without a temporary array; the sums of rows are added in float64."""
    return torch.linalg.vector_norm(values, dim=-1, dtype=_wide(values)).double().square().sum()


def _column_sums(values: Tensor) -> Tensor:
    """Returns the sum of rows in float64; groups of ``ROWS`` rows are first summed in their precision, for speed."""
    n_whole = len(values) // ROWS * ROWS
    few = values[:n_whole].unflatten(0, (n_whole // ROWS, ROWS)).sum(1, dtype=_wide(values))
    return few.sum(0, dtype=torch.float64) + values[n_whole:].sum(0, dtype=torch.float64)


def _wide(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)
