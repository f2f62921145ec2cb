"""`WholeBatch`, the batch of a training step over all ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Parts(Protocol):
    """The parts of a batch, as in `Parallel`."""

    @property
    def part(self) -> int: ...

    @property
    def n_parts(self) -> int: ...

    def sum(self, tensor: Tensor) -> Tensor: ...


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

    parallel: Parts
    own: int
    total: int

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

    def sum(self, value: Tensor) -> Tensor:
        """Returns the sum over all parts, without gradient, given this rank's sum over its rows."""
        return self.parallel.sum(value.detach()) if self.parallel.n_parts > 1 else value


def order_of_parts(sizes: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Returns the index, among the concatenated rows of all parts, of each row of the whole batch.

    Args:
        sizes: Number of rows of each part.
        device: Device of the result.
    """
    n_parts, total = len(sizes), sum(sizes)
    rows = torch.arange(total, device=device)
    if sizes != tuple(len(range(part, total, n_parts)) for part in range(n_parts)):
        return rows
    starts = torch.tensor([sum(sizes[:part]) for part in range(n_parts)], device=device)
    return starts[rows % n_parts] + rows // n_parts
