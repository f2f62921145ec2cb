"""The increase of a loss by an ablation, with its standard error."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor

N_ERRORS = 3.0
"""Smallest significant gap in standard errors. Loss recovered, which divides by the gap, is NaN for smaller gaps."""
ROUNDING = 1e-6
"""Smallest significant gap relative to the losses. Smaller gaps are due to rounding."""


class LossSums:
    """Sums, for each sequence, of the losses of the same tokens under several conditions."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._squares: Tensor | float = 0.0

    def update_(self, losses: list[Tensor], sequences: Int[Tensor, " n"] | None) -> None:
        """Adds a batch.

        Args:
            losses: Losses under each condition, all of the same shape. The first condition is the base.
            sequences: Index of the sequence of each loss. None treats every loss as a separate sequence.
        """
        values = torch.stack([own.detach().flatten() for own in losses]).cpu().double()
        if sequences is None:
            sequences = torch.arange(values.shape[1], device="cpu")
        _, rows = sequences.cpu().unique(return_inverse=True)
        n_rows = int(rows.max()) + 1 if rows.numel() else 0
        self._sums.append(values.new_zeros(len(values), n_rows).index_add_(1, rows, values))
        self._counts.append(torch.bincount(rows, minlength=n_rows))
        self._squares = self._squares + (values - values[0]).square().sum(1)

    @property
    def n(self) -> int:
        """Total number of losses."""
        return int(sum(int(counts.sum()) for counts in self._counts))

    @property
    def means(self) -> list[float]:
        """Mean loss under each condition."""
        return (torch.cat(self._sums, 1).sum(1) / self.n).tolist()

    @property
    def gap_errors(self) -> list[float]:
        r"""Standard error of the mean difference from the base, for each condition.

        .. math::
            \mathrm{SE}^2 = \frac{S}{S-1} \frac{1}{N^2} \sum_s \left(\sum_{t \in s} d_t - n_s \bar d\right)^2

        The sum runs over sequences :math:`s`, because tokens of one sequence aren't independent. For a single sequence
        the sum runs over tokens. For a single loss the result is 0.
        """
        sums, counts = torch.cat(self._sums, 1), torch.cat(self._counts)
        differences = sums - sums[0]
        gaps = differences.sum(1) / self.n
        n_sequences = len(counts)
        if n_sequences > 1:
            squares = (differences - gaps[:, None] * counts).square().sum(1)
            return (squares * n_sequences / (n_sequences - 1)).sqrt().div(self.n).tolist()
        if self.n < 2:
            return [0.0] * len(sums)
        return ((self._squares - self.n * gaps.square()).clamp_min(0) / (self.n - 1) / self.n).sqrt().tolist()


def unclear_gap(name: str, base: float, ablated: float, error: float) -> str | None:
    """Returns the reason why loss recovered is undefined for a gap, or None if the gap is significant."""
    gap = ablated - base
    if not (math.isfinite(base) and math.isfinite(ablated)):
        return f"the loss isn't finite ({base:.4g} for the original model, {ablated:.4g} with {name})"
    if gap > max(N_ERRORS * error, ROUNDING * max(abs(base), abs(ablated))):
        return None
    return f"{name} doesn't raise the loss by more than noise: {gap:+.2g} with a standard error of {error:.2g}"
