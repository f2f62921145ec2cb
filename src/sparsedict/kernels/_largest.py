"""Finds the largest entries of each row, with a fast search for candidates."""

from __future__ import annotations

import einops
import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sparsedict.kernels._positions import positions_where
from sparsedict.latents import Support
from sparsedict.selections import first_largest

GROUPS_PER_ENTRY = 8
"""Number of groups of a row per selected entry. More groups take longer, fewer groups leave more candidates."""

MAX_CANDIDATES = 16
"""Average number of candidates per selected entry above which whole rows are searched."""


def largest(
    pre: Float[Tensor, "n_rows n_latents"], k: int, *, lowest_ties: bool = False
) -> tuple[Int[Tensor, "n_rows k"], Float[Tensor, "n_rows k"]]:
    """Returns the indices and values of the ``k`` largest entries of each row, in unspecified order.

    Args:
        pre: The rows.
        k: Number of entries, at most the length of a row.
        lowest_ties: Whether ties are resolved in favour of the lowest index on every device, see `Largest`.
    """
    if pre.device.type != "cpu":
        return _whole(pre, k, lowest_ties)
    exact = pre if pre.dtype in (torch.float32, torch.float64) else pre.float()
    reach = within_reach(exact, k)
    if reach is None:
        return _whole(pre, k, lowest_ties)
    # If the bound of a row is NaN, the whole row is searched.
    below = np.less(exact.numpy(), reach[:, None].numpy())
    flat = positions_where(torch.from_numpy(np.logical_not(below, out=below)))
    if len(flat) > MAX_CANDIDATES * k * len(pre):
        return _whole(pre, k, lowest_ties)
    support = Support.from_flat(flat, len(pre), pre.shape[1])
    return largest_stored(pre.view(-1)[flat], support, k, lowest_ties=lowest_ties)


def within_reach(entries: Shaped[Tensor, "n_rows n_latents"], k: int) -> Shaped[Tensor, " n_rows"] | None:
    """Returns a lower bound of each row's ``k``-th largest entry, or ``None`` if rows are too short.

    A row is split into groups. The ``k``-th largest of their maxima is a lower bound, since ``k`` maxima are at least
    as large. Entries may be the bits of bfloat16 numbers, which have the same order if they aren't negative, so a
    non-negative bound is also valid for the numbers.
    """
    if not is_searched(entries.shape[1], k) or not len(entries):
        return None
    size = 1
    while entries.shape[1] // (2 * size) >= GROUPS_PER_ENTRY * k:
        size *= 2
    # Groups are strided, so that maxima are computed across contiguous rows of memory. A remainder is ignored.
    entries = entries[:, : entries.shape[1] // size * size]
    maxima = einops.reduce(entries, "rows (size groups) -> rows groups", "max", size=size).numpy()
    n_groups = maxima.shape[1]
    return torch.from_numpy(np.partition(maxima, n_groups - k, axis=1)[:, n_groups - k].copy())


def is_searched(n_latents: int, k: int) -> bool:
    """Returns whether rows are long enough to be split into groups for their ``k`` largest entries."""
    return n_latents >= 2 * GROUPS_PER_ENTRY * k


def largest_stored(
    values: Float[Tensor, " n_entries"], support: Support, k: int, *, lowest_ties: bool = False
) -> tuple[Int[Tensor, "n_rows k"], Float[Tensor, "n_rows k"]]:
    """Returns the indices and values of the ``k`` largest stored entries of each row.

    Args:
        values: Values of the entries.
        support: Positions of the entries, at least ``k`` per row, in ascending order within a row.
        k: Number of entries.
        lowest_ties: Whether ties are resolved in favour of the lowest index.
    """
    counts = support.offsets.diff()
    wide = counts > MAX_CANDIDATES * k
    if bool(wide.any()) and not bool(wide.all()):
        # One row whose entries are all equal must not increase the width of all rows.
        indices, largest_values = support.latents.new_empty(len(counts), k), values.new_empty(len(counts), k)
        for rows in (wide, ~wide):
            own = rows.index_select(0, support.tokens)
            offsets = torch.nn.functional.pad(counts[rows].cumsum(0), (1, 0))
            part = Support(support.latents[own], offsets, support.n_latents)
            indices[rows], largest_values[rows] = largest_stored(values[own], part, k, lowest_ties=lowest_ties)
        return indices, largest_values
    width = int(counts.max())
    begins = torch.arange(0, width * len(counts), width, device="cpu") - support.offsets[:-1]
    places = torch.arange(len(values), device="cpu") + begins.index_select(0, support.tokens)
    padded = values.new_full((len(counts), width), -torch.inf)
    padded.view(-1).scatter_(0, places, values)
    if values.dtype in (torch.float32, torch.float64):
        kth = torch.from_numpy(np.partition(padded.numpy(), width - k, axis=1)[:, width - k].copy())
        # NaN counts as larger. A row then has at least k entries, and more if several equal the k-th.
        flat = positions_where(~(values < kth.index_select(0, support.tokens)))
        if bool((torch.searchsorted(flat, support.offsets).diff() == k).all()):
            return support.latents.index_select(0, flat).view(-1, k), values.index_select(0, flat).view(-1, k)
    latents = places.new_zeros(len(counts), width)
    latents.view(-1).scatter_(0, places, support.latents)
    chosen = _chosen(padded, k, lowest_ties)
    return latents.gather(1, chosen), padded.gather(1, chosen)


def largest_of_all(values: Float[Tensor, " n"], k: int) -> Int[Tensor, " k"]:
    """Returns the indices of the ``k`` largest values, in ascending order. On the CPU, the first of ties are chosen."""
    chosen = values.topk(k, sorted=False).indices if values.device.type != "cpu" else _partitioned(values[None], k)[0]
    return first_largest(values, chosen) if values.device.type == "cpu" else chosen.sort().values


def _whole(pre: Tensor, k: int, lowest_ties: bool) -> tuple[Tensor, Tensor]:
    chosen = _chosen(pre, k, lowest_ties)
    return chosen, pre.gather(1, chosen)


def _chosen(values: Tensor, k: int, lowest_ties: bool) -> Tensor:
    if lowest_ties:
        return values.sort(dim=1, descending=True, stable=True).indices[:, :k]
    if values.device.type != "cpu":
        return values.topk(k, dim=1, sorted=False).indices
    chosen = _partitioned(values, k)
    found = values.gather(1, chosen)
    smallest = found.amin(1, keepdim=True)
    crossing = (values == smallest).sum(1) > (found == smallest).sum(1)
    if bool(crossing.any()):
        chosen = chosen.clone()
        chosen[crossing] = values[crossing].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return chosen


def _partitioned(values: Tensor, k: int) -> Tensor:
    """Returns the indices of the ``k`` largest values of each row on the CPU, with any choice among ties."""
    n = values.shape[1]
    if k == n:
        return torch.arange(n, device="cpu").expand(len(values), n)
    # NumPy's partition is vectorised, PyTorch's isn't.
    exact = values if values.dtype in (torch.float32, torch.float64) else values.float()
    return torch.from_numpy(np.argpartition(exact.numpy(), n - k, axis=1)[:, n - k :])
