"""The most influential edges between the kept nodes of a graph, and the nodes that they connect to a target."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsedict.circuits._influence import influence, shares, smallest_set


def connected(
    edges: Float[Tensor, "n n"],
    weights: Float[Tensor, " n"],
    keep: Bool[Tensor, " n"],
    fixed: Bool[Tensor, " n"],
    is_latent: Bool[Tensor, " n"],
    share: float,
) -> tuple[Bool[Tensor, " n"], Bool[Tensor, "n n"]]:
    """Returns masks of the nodes that remain connected, and of the most influential edges between the kept nodes.

    Args:
        edges: Direct effects (target, source).
        weights: Weight of each node as a target.
        keep: True for the kept nodes.
        fixed: True for nodes that need no edge.
        is_latent: True for latents. They also need an edge from an earlier node.
        share: Share of the influence that the kept edges have.
    """
    between = torch.where(keep[:, None] & keep[None], edges, 0.0)
    scores = shares(between) * (influence(between, weights) + weights)[:, None]
    kept_edges = smallest_set(scores, share)
    while True:
        alive = kept_edges & keep[:, None] & keep[None]
        loose = keep & ~fixed & (~alive.any(0) | (is_latent & ~alive.any(1)))
        if not bool(loose.any()):
            return keep, kept_edges
        keep = keep & ~loose
