"""The largest entries of each row, found without looking at every entry in detail."""

from __future__ import annotations

import einops
import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sparsedict.kernels._positions import positions_where
from sparsedict.latents import Support

GROUPS_PER_ENTRY = 8
"""Groups that a row is cut into, for each entry wanted: more take longer, fewer leave more candidates."""

MAX_CANDIDATES = 16
"""Candidates on an average row, for each entry wanted, beyond which rows are searched as a whole."""


def largest(
    pre: Float[Tensor, "n_rows n_latents"], k: int, *, lowest_ties: bool = False
) -> tuple[Int[Tensor, "n_rows k"], Float[Tensor, "n_rows k"]]:
    """Returns where the ``k`` largest of each row lie, in no promised order, and their values.

    Args:
        pre: The rows.
        k: How many, at most as many as there are.
        lowest_ties: Of equal entries that compete for the last places, take those of lowest index.
    """
    if pre.device.type != "cpu":
        return _whole(pre, k, lowest_ties)
    exact = pre if pre.dtype in (torch.float32, torch.float64) else pre.float()
    reach = within_reach(exact, k)
    if reach is None:
        return _whole(pre, k, lowest_ties)
    # Where a row's bound isn't a number, all of the row is looked at.
    below = np.less(exact.numpy(), reach[:, None].numpy())
    flat = positions_where(torch.from_numpy(np.logical_not(below, out=below)))
    if len(flat) > MAX_CANDIDATES * k * len(pre):
        return _whole(pre, k, lowest_ties)
    support = Support.from_flat(flat, len(pre), pre.shape[1])
    return largest_stored(pre.view(-1)[flat], support, k, lowest_ties=lowest_ties)


def within_reach(entries: Shaped[Tensor, "n_rows n_latents"], k: int) -> Shaped[Tensor, " n_rows"] | None:
    """Returns a lower bound of each row's ``k``-th largest entry, or ``None`` where rows are too short to look for one.

    A row is cut into groups; ``k`` of their maxima are as large as the ``k``-th largest of them, and so at least ``k``
    entries are. Integers may be the bits of numbers in bfloat16, whose order they have from zero up: a bound that
    isn't negative is one of the numbers too.
    """
    if not is_searched(entries.shape[1], k) or not len(entries):
        return None
    size = 1
    while entries.shape[1] // (2 * size) >= GROUPS_PER_ENTRY * k:
        size *= 2
    # A group holds every so many-th entry, so that maxima are taken across rows of memory. A remainder is left out.
    entries = entries[:, : entries.shape[1] // size * size]
    maxima = einops.reduce(entries, "rows (size groups) -> rows groups", "max", size=size).numpy()
    n_groups = maxima.shape[1]
    return torch.from_numpy(np.partition(maxima, n_groups - k, axis=1)[:, n_groups - k].copy())


def is_searched(n_latents: int, k: int) -> bool:
    """Returns whether rows are long enough, for ``k`` of their entries, to be cut into groups."""
    return n_latents >= 2 * GROUPS_PER_ENTRY * k


def largest_stored(
    values: Float[Tensor, " n_entries"], support: Support, k: int, *, lowest_ties: bool = False
) -> tuple[Int[Tensor, "n_rows k"], Float[Tensor, "n_rows k"]]:
    """Returns the ``k`` largest among the stored entries of each row, of which there are at least ``k``.

    Args:
        values: Of the entries.
        support: Where they lie, those of a row in ascending order.
        k: How many.
        lowest_ties: Of equal entries that compete for the last places, take those of lowest index.
    """
    counts = support.offsets.diff()
    wide = counts > MAX_CANDIDATES * k
    if bool(wide.any()) and not bool(wide.all()):
        # One row whose entries are all equal must not make the others as wide.
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
        # What isn't a number counts as larger. A row then has at least k, and has more where several equal the k-th.
        flat = positions_where(~(values < kth.index_select(0, support.tokens)))
        if bool((torch.searchsorted(flat, support.offsets).diff() == k).all()):
            return support.latents.index_select(0, flat).view(-1, k), values.index_select(0, flat).view(-1, k)
    latents = places.new_zeros(len(counts), width)
    latents.view(-1).scatter_(0, places, support.latents)
    chosen = _chosen(padded, k, lowest_ties)
    return latents.gather(1, chosen), padded.gather(1, chosen)


def largest_of_all(values: Float[Tensor, " n"], k: int) -> Int[Tensor, " k"]:
    """Returns where the ``k`` largest lie, ascending."""
    return _chosen(values[None], k, False)[0].sort().values


def _whole(pre: Tensor, k: int, lowest_ties: bool) -> tuple[Tensor, Tensor]:
    chosen = _chosen(pre, k, lowest_ties)
    return chosen, pre.gather(1, chosen)


def _chosen(values: Tensor, k: int, lowest_ties: bool) -> Tensor:
    if lowest_ties:
        return values.sort(dim=1, descending=True, stable=True).indices[:, :k]
    if values.device.type != "cpu":
        return values.topk(k, dim=1, sorted=False).indices
    n = values.shape[1]
    if k == n:
        return torch.arange(n, device="cpu").expand(len(values), n)
    # NumPy's selection is vectorised, PyTorch's isn't.
    exact = values if values.dtype in (torch.float32, torch.float64) else values.float()
    return torch.from_numpy(np.argpartition(exact.numpy(), n - k, axis=1)[:, n - k :])
