"""Finds duplicate rows."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@torch.no_grad()
def first_of_equal(rows: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
    """Returns a mask of the rows that aren't equal to an earlier row.

    Example:
        >>> import torch
        >>> first_of_equal(torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 2.0]]))
        tensor([ True,  True, False])
    """
    groups = torch.unique(rows, dim=0, return_inverse=True)[1]
    index = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(index, len(rows)).scatter_reduce_(0, groups, index, "amin")
    return first[groups] == index
