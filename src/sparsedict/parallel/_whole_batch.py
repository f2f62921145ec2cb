"""`WholeBatch`, the batch of a training step over all processes, of which each has a part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedict.parallel._order import order_of_parts
from sparsedict.parallel._parallel import Parallel


@dataclass(frozen=True)
class WholeBatch:
    """The batch of a training step over all ranks, of which this rank holds a part.

    Losses and penalties are means over the rank's own tokens. The loop averages their gradients with the rank's share
    as the weight, which is exact for a term that is linear in a mean over tokens. Any other function of a mean, such
    as its square, must be computed from :meth:`mean`.

    Attributes:
        parallel: The ranks.
        own: Number of rows of this rank.
        total: Number of rows of all parts.
    """

    parallel: Parallel
    own: int
    total: int

    @classmethod
    def from_part(cls, parallel: Parallel, n_rows: int) -> WholeBatch:
        """Returns the batch over all ranks, given this rank's number of rows. It is a collective operation."""
        if parallel.n_parts == 1:
            return cls(parallel, n_rows, n_rows)
        return cls(parallel, n_rows, parallel.total([row[0] for row in parallel.exchange(n_rows)]))

    @property
    def share(self) -> float:
        """This rank's share of the rows."""
        return self.own / self.total

    def mean(self, value: Tensor) -> Tensor:
        """Returns the mean over the whole batch, given the mean over this rank's rows.

        Its gradient is that of ``value``, so that the average of gradients over ranks is that of the whole batch.
        """
        if self.parallel.n_parts == 1:
            return value
        whole = self.sum(value * self.own) / self.total
        return value + (whole - value.detach()) if value.requires_grad else whole

    def variances(self, rows: Tensor) -> Tensor:
        """Returns the variance of each column over the whole batch, without gradient, given this rank's rows."""
        rows = rows.detach()
        if self.parallel.n_parts == 1:
            return rows.var(dim=0, correction=0)
        return self.mean((rows - self.mean(rows.mean(0))).square().mean(0))

    def sum(self, value: Tensor) -> Tensor:
        """Returns the sum over all parts, without gradient, given this rank's sum over its rows."""
        return self.parallel.sum(value.detach()) if self.parallel.n_parts > 1 else value

    def positions(self, device: torch.device) -> Tensor:
        """Returns the index of each row of this rank in the whole batch. It is a collective operation."""
        parallel = self.parallel
        if parallel.n_parts == 1:
            return torch.arange(self.own, device=device)
        sizes = {row[0]: row[1] for row in parallel.exchange(parallel.part, self.own)}
        order = order_of_parts(tuple(sizes[part] for part in range(parallel.n_parts)), device)
        start = sum(sizes[part] for part in range(parallel.part))
        return torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=device))[
            start : start + self.own
        ]
