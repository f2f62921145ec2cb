"""The best set of values of a labelling for each latent, by counting."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict.analysis.scores._rule_table import RuleTable
from sparsedict.analysis.scores._token_latents import offsets_of

MAX_VALUES = 16
"""Largest number of values in a clause."""
MIN_COUNT = 2
MIN_SHARE = 0.02
"""A value of a clause must occur on this share of a latent's active tokens, and at least twice."""


@dataclass(frozen=True, eq=False)
class Counts:
    """How often each value of a labelling occurs for a latent. Pairs are sorted by latent.

    Attributes:
        latent: Latent of each pair, ``[n_pairs]``.
        value: Value of each pair, ``[n_pairs]``.
        active: Number of active tokens with this value, ``[n_pairs]``.
        total: Number of tokens with this value, ``[n_pairs]``.
    """

    latent: Int[Tensor, " n_pairs"]
    value: Int[Tensor, " n_pairs"]
    active: Float[Tensor, " n_pairs"]
    total: Float[Tensor, " n_pairs"]


def best_sets(
    counts: Counts, n_active: Int[Tensor, " n_latents"], labelling: int, beta: float
) -> tuple[RuleTable, Float[Tensor, " n_rules"]]:
    r"""Finds the set of values with the largest :math:`F_\beta` for each latent that has any.

    Sorted by precision, the best set is a prefix: adding a value raises :math:`F_\beta` if its precision exceeds
    :math:`F_\beta / (1 + \beta^2)`. Precision is shrunk by one token, so that rare values don't come first.

    Args:
        counts: Counts of one labelling.
        n_active: Number of active tokens of each latent.
        labelling: Index of the labelling.
        beta: Weight of recall over precision.

    Returns:
        A rule of one clause for each latent with a frequent value, and its :math:`F_\beta`.
    """
    needed = (MIN_SHARE * n_active).clamp(min=MIN_COUNT)[counts.latent]
    often = counts.active >= needed
    latent, value = counts.latent[often], counts.value[often]
    active, total = counts.active[often].double(), counts.total[often].double()
    order = torch.argsort(latent.double() - 0.999 * active / (total + 1), stable=True)
    latent, value, active, total = latent[order], value[order], active[order], total[order]
    first = offsets_of(latent, len(n_active))[latent]
    in_set, in_total = _segment_sums(active, first), _segment_sums(total, first)
    score = (1 + beta**2) * in_set / (beta**2 * n_active[latent] + in_total)
    rank = torch.arange(len(latent), device="cpu") - first
    score = torch.where(rank < MAX_VALUES, score, -1.0)
    best = torch.zeros(len(n_active), dtype=torch.float64, device="cpu").scatter_reduce_(0, latent, score, "amax")
    ends = torch.full((len(n_active),), MAX_VALUES, dtype=torch.int64, device="cpu")
    ends.scatter_reduce_(0, latent, torch.where(score == best[latent], rank, MAX_VALUES), "amin")
    chosen = rank <= ends[latent]
    owners, index = latent[chosen].unique_consecutive(return_inverse=True)
    # Values of a clause are in ascending order, so that they can be looked up.
    arranged = torch.argsort(index * 2**32 + value[chosen])
    rules = torch.arange(len(owners), device="cpu")
    table = RuleTable(
        owners, rules, torch.full_like(owners, labelling), offsets_of(index, len(owners)), value[chosen][arranged]
    )
    return table, best[owners]


def _segment_sums(values: Tensor, first: Tensor) -> Tensor:
    """Returns cumulative sums that start anew at the first entry of each segment."""
    sums = torch.nn.functional.pad(values.cumsum(0), (1, 0))
    return sums[1:] - sums[first]
