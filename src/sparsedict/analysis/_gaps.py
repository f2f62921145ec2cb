"""How far an ablation raises a loss, and whether that is more than noise."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor

N_ERRORS = 3.0
"""A gap counts from so many of its standard errors on: the share recovered is a ratio to it."""
ROUNDING = 1e-6
"""A gap below this share of the losses themselves is rounding."""


class LossSums:
    """Losses of the same tokens under several conditions, summed by sequence."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._squares: Tensor | float = 0.0

    def update_(self, losses: list[Tensor], sequences: Int[Tensor, " n"] | None) -> None:
        """Takes in a batch.

        Args:
            losses: Under each condition, of one shape; the first is the base.
            sequences: The sequence of each loss; None if each stands for itself.
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
        """Losses in all."""
        return int(sum(int(counts.sum()) for counts in self._counts))

    @property
    def means(self) -> list[float]:
        """Mean loss under each condition."""
        return (torch.cat(self._sums, 1).sum(1) / self.n).tolist()

    @property
    def gap_errors(self) -> list[float]:
        r"""Standard error of each condition's mean difference from the base.

        .. math::
            \mathrm{SE}^2 = \frac{S}{S-1} \frac{1}{N^2} \sum_s \left(\sum_{t \in s} d_t - n_s \bar d\right)^2

        over sequences :math:`s`, for tokens of one sequence aren't independent. Of a single sequence the tokens count
        each for itself; of a single loss there is none, and it is 0.
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
    """Returns why the share of a gap that is recovered means nothing; None if it does mean something."""
    gap = ablated - base
    if not (math.isfinite(base) and math.isfinite(ablated)):
        return f"the loss isn't finite ({base:.4g} of the model as it is, {ablated:.4g} with {name})"
    if gap > max(N_ERRORS * error, ROUNDING * max(abs(base), abs(ablated))):
        return None
    return f"{name} doesn't raise the loss by more than noise: {gap:+.2g} with a standard error of {error:.2g}"
