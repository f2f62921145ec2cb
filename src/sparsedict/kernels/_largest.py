"""The largest entries of each row, found without looking at every entry in detail."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict.selections import settle_ties

GROUP = 4
"""Entries of which a round of the tournament keeps the largest."""

WIDEST_FINAL = 4
"""A tournament ends where fewer than so many times ``k`` maxima would be left."""


def largest(
    pre: Float[Tensor, "n_tokens n_latents"], k: int, *, lowest_ties: bool = False
) -> tuple[Int[Tensor, "n_tokens k"], Float[Tensor, "n_tokens k"]]:
    """Returns where the ``k`` largest of each row lie, in no promised order, and their values.

    Args:
        pre: The rows.
        k: How many, at most as many as there are.
        lowest_ties: Of equal entries that compete for the last places, take those of lowest index.
    """
    n_latents = pre.shape[-1]
    if k == n_latents:
        return torch.arange(k, device=pre.device).expand(len(pre), k), pre.clone()
    indices = _unordered(pre, k + lowest_ties)
    values = pre.gather(1, indices)
    if lowest_ties:
        values, order = values.sort(dim=-1, descending=True)
        indices = settle_ties(pre, values, indices.gather(1, order))
        values = pre.gather(1, indices)
    return indices, values


def largest_of_all(values: Float[Tensor, " n"], k: int) -> Int[Tensor, " k"]:
    """Returns where the ``k`` largest lie, ascending."""
    return _partition(values[None], k)[0].sort().values


def _unordered(pre: Tensor, k: int) -> Tensor:
    if pre.device.type != "cpu":
        return pre.topk(k, dim=-1, sorted=False).indices
    # The k largest lie in the k groups of largest maximum: each round halves the question twice, at a maximum's cost.
    rounds = [pre]
    while rounds[-1].shape[1] % GROUP == 0 and rounds[-1].shape[1] >= GROUP * WIDEST_FINAL * k:
        rounds.append(rounds[-1].unflatten(1, (GROUP, -1)).amax(1))
    indices = _partition(rounds.pop(), k)
    for entries in reversed(rounds):
        # A group holds every so many-th entry, so that its maximum is taken across rows of memory.
        starts = torch.arange(0, entries.shape[1], entries.shape[1] // GROUP)
        group = (starts[:, None] + indices[:, None, :]).flatten(1)
        indices = group.gather(1, _partition(entries.gather(1, group), k))
    return indices


def _partition(values: Tensor, k: int) -> Tensor:
    """Returns the indices of the ``k`` largest of each row, by NumPy's vectorised selection."""
    if values.shape[1] <= k:
        return torch.arange(values.shape[1]).expand(len(values), -1)
    exact = values if values.dtype in (torch.float32, torch.float64) else values.float()
    order = np.argpartition(exact.numpy(), values.shape[1] - k, axis=1)
    return torch.from_numpy(order[:, values.shape[1] - k :])
