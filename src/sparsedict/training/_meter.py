"""Sums of the measurements of training steps, kept on the device until a record is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sparsedict.dictionaries import ForwardPass
from sparsedict.parallel import Alone, Parallel, per_rank, saved_values
from sparsedict.penalties import Penalty
from sparsedict.training._state import restore

ALONE = Alone()
SUMS = ("_terms", "_counts", "_target_sum")
STATE = ("_terms", "_counts", "_target_sum", "_n_steps", "_n_tokens", "_first_bad")
ROWS = 32
"""Rows that are summed in their own precision before the sum continues in float64."""
PART_ENTRIES = 2**17
"""Number of entries whose differences are in memory at a time."""


class Meter:
    """Sums the measurements of training steps on the device. Only `read` copies them to the CPU.

    Attributes:
        last_l0: Number of active latents in the last step, mean over tokens.

    Args:
        penalties: The penalties of the run.
        d_out: Width of the targets.
        device: Device of the sums.
        parallel: The ranks of the run, whose measurements are added up.
    """

    def __init__(
        self, penalties: Sequence[Penalty], d_out: int, device: torch.device, parallel: Parallel = ALONE
    ) -> None:
        self._parallel = parallel
        self._names = _names(penalties)
        self._terms = torch.zeros(2 + len(penalties), dtype=torch.float64, device=device)
        self._counts = torch.zeros(3, dtype=torch.float64, device=device)
        self._target_sum = torch.zeros(d_out, dtype=torch.float64, device=device)
        self._n_steps = 0
        self._n_tokens = 0
        self.last_l0 = torch.full((), torch.nan, dtype=torch.float64, device=device)
        # The first step with an objective that isn't finite. The largest integer means that there is none.
        self._first_bad = torch.full((), torch.iinfo(torch.int64).max, dtype=torch.int64, device=device)

    def state_dict(self) -> dict[str, Any]:
        """Returns the sums since the last call of `read`."""
        own = {name: getattr(self, name) for name in STATE}
        return per_rank(
            self._parallel, own if self._parallel.n_ranks == 1 else {**own, "_n_parts": self._parallel.n_parts}
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the sums from the result of `state_dict`."""
        found = saved_values(state)
        n_parts = int(found[0].get("_n_parts", 1))
        if (len(found), n_parts) == (self._parallel.n_ranks, self._parallel.n_parts):
            restore(self, found[self._parallel.rank], STATE)
            return
        restore(self, found[0], STATE)
        # Other ranks wrote the checkpoint: the first part has the sums of all parts.
        for name in SUMS:
            whole = torch.stack([own[name].to(getattr(self, name).device) for own in found]).sum(0)
            getattr(self, name).copy_(whole * n_parts / len(found) if self._parallel.part == 0 else 0.0 * whole)

    @torch.no_grad()
    def add(self, out: ForwardPass, terms: list[Tensor], firing_counts: Int[Tensor, " n_latents"]) -> None:
        """Adds the measurements of a step.

        Args:
            out: The forward pass.
            terms: The objective, the loss and the penalties.
            firing_counts: Number of this rank's tokens on which each latent fired.
        """
        whole = out.whole
        stacked = torch.stack([term.detach().double() for term in terms]) * whole.share
        bad = torch.where(torch.isfinite(stacked[0]), torch.iinfo(torch.int64).max, out.step)
        self._first_bad = torch.minimum(self._first_bad, bad)
        self._terms += stacked
        targets = out.targets.detach()
        error = _squared_error(out.reconstruction.detach(), targets)
        active = self._parallel.sum_latents(firing_counts.sum()).double()
        self.last_l0 = whole.mean(active / len(targets))
        self._counts += torch.stack([error, _squares(targets), active])
        self._target_sum += _column_sums(targets)
        self._n_steps += 1
        self._n_tokens += whole.total

    def read(self) -> tuple[dict[str, Any], int | None]:
        """Returns the means since the last call, by field of `Record`, and the first non-finite step, if any.

        The sums start again at zero.
        """
        sums = self._parallel.sum(torch.cat([self._terms, self._counts, self._target_sum]))
        terms, counts, target_sum = sums.split([len(self._terms), len(self._counts), len(self._target_sum)])
        first_bad = self._parallel.rows(self._first_bad[None]).min()
        variance = counts[1] - target_sum.square().sum() / self._n_tokens
        numbers = torch.cat([terms, counts, variance[None], first_bad.double()[None]]).tolist()
        n_terms = len(self._terms)
        terms = [value / self._n_steps for value in numbers[:n_terms]]
        error, _, active, spread, first_bad = numbers[n_terms:]
        means = {
            "objective": terms[0],
            "loss": terms[1],
            "penalties": dict(zip(self._names, terms[2:], strict=True)),
            "fvu": error / spread if spread > 0 else float("nan"),
            "l0": active / self._n_tokens,
        }
        for total in (self._terms, self._counts, self._target_sum):
            total.zero_()
        self._n_steps = self._n_tokens = 0
        return means, None if first_bad >= 2**62 else int(first_bad)


def _squared_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Returns the sum of squared differences. On a CPU, a few rows at a time stay in the cache."""
    size = max(1, PART_ENTRIES // found.shape[-1]) if found.device.type == "cpu" else len(found)
    parts = zip(found.split(size), wanted.split(size), strict=True)
    return torch.stack([_squares(own - target) for own, target in parts]).sum()


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


def _names(penalties: Sequence[Penalty]) -> list[str]:
    """Returns a name for each penalty: its class, with a number if the class occurs several times."""
    names = [type(penalty).__name__ for penalty in penalties]
    totals, seen = Counter(names), Counter()
    for i, name in enumerate(names):
        if totals[name] > 1:
            seen[name] += 1
            names[i] = f"{name} {seen[name]}"
    return names
