"""Influence of nodes on the targets of a graph, as in the published method."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsedict.torch_state import in_own_state

ROWS_AT_ONCE = 2**8


def shares(edges: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Returns the absolute direct effects as shares of each row. Rows without effects are zero."""
    size = edges.abs()
    return size / size.sum(-1, keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)


def propagated(weights: Float[Tensor, " n"], normalised: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    """Returns ``weights + weights A + weights A A + ...`` for a matrix without cycles."""
    total = step = weights
    for _ in range(len(weights)):
        step = step @ normalised
        if not bool(step.any()):
            break
        total = total + step
    return total


@in_own_state
def influence(edges: Float[Tensor, "n n"], weights: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    r"""Returns the influence of each node on the targets.

    With :math:`A` the absolute direct effects, each row divided by its sum:

    .. math::
        I = w (A + A^2 + A^3 + \ldots)

    Args:
        edges: Direct effects (target, source).
        weights: Weight of each node as a target.

    Source: Ameisen et al., "Circuit Tracing: Revealing Computational Graphs in Language Models", 2025.
    """
    return propagated(weights, shares(edges)) - weights


def smallest_set(scores: Float[Tensor, "*shape"], share: float) -> Bool[Tensor, "*shape"]:
    """Returns a mask of the largest scores, as few as reach a share of their sum."""
    order = scores.flatten().sort(descending=True, stable=True)
    reached = order.values.cumsum(0) - order.values
    kept = (reached < share * order.values.sum()) & (order.values > 0)
    mask = torch.zeros_like(kept)
    mask[order.indices[kept]] = True
    return mask.view(scores.shape)


def row_sums(rows: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """Returns the sum of absolute values of each row, without a copy of all rows."""
    return torch.cat([rows.new_zeros(0), *(part.abs().sum(-1) for part in rows.split(ROWS_AT_ONCE))])


def weighted_sum(weights: Float[Tensor, " n"], rows: Float[Tensor, "n m"]) -> Float[Tensor, " m"]:
    """Returns ``weights @ rows.abs()``, without a copy of all rows."""
    total = rows.new_zeros(rows.shape[-1])
    for own, part in zip(weights.split(ROWS_AT_ONCE), rows.split(ROWS_AT_ONCE), strict=True):
        total += own @ part.abs()
    return total
