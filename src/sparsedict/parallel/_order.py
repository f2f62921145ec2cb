"""The order of the rows of a batch that is divided into parts."""

from __future__ import annotations

import torch
from torch import Tensor


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
