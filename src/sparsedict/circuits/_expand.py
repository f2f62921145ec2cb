"""Chooses the latents whose own direct effects are computed, by their influence on the targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedict.circuits._effects import Columns, DirectEffects
from sparsedict.circuits._influence import propagated, row_sums, weighted_sum
from sparsedict.progress import Progress

GROWTH = 4
"""Each round expands at least this fraction of the latents that are expanded already."""


@dataclass(frozen=True, eq=False)
class Expansion:
    """Direct effects on chosen latents.

    Attributes:
        latents: Columns of the chosen latents, in ascending order.
        rows: Direct effects of all columns on them.
        constants: Their constants.
        influence: Influence of each column on the targets.
    """

    latents: Tensor
    rows: Tensor
    constants: Tensor
    influence: Tensor


def expand(
    effects: DirectEffects,
    columns: Columns,
    targets: Tensor,
    weights: Tensor,
    most: int,
    bar: Progress,
) -> Expansion:
    """Computes the direct effects on the most influential latents.

    A latent's influence is known once the direct effects on the nodes downstream of it are. The choice therefore
    proceeds in rounds, each of which adds the most influential latents so far.

    Args:
        effects: The backward passes.
        columns: The sources.
        targets: Direct effects on the targets, ``[n_targets, n_columns]``.
        weights: Weight of each target.
        most: Largest number of latents.
        bar: Reports the number of latents.
    """
    most = min(most, columns.n_latents)
    rows = torch.zeros(most, columns.n, dtype=targets.dtype, device="cpu")
    constants, chosen = (
        torch.zeros(most, dtype=targets.dtype, device="cpu"),
        torch.zeros(0, dtype=torch.int64, device="cpu"),
    )
    direct = weighted_sum(weights / row_sums(targets).clamp_min(torch.finfo(rows.dtype).tiny), targets)
    influence = direct
    while len(chosen) < most:
        open_ = influence[: columns.n_latents].clone()
        open_[chosen] = -1.0
        n = min(most - len(chosen), max(effects.batch_size, len(chosen) // GROWTH))
        best = open_.topk(n)
        latents = best.indices[best.values > 0]
        if not len(latents):
            break
        # Latents of one layer share the depth of their backward pass.
        latents = latents[(columns.sites[latents] * columns.n_latents + latents).argsort(descending=True)]
        for batch in latents.split(effects.batch_size):
            begin, end = len(chosen), len(chosen) + len(batch)
            rows[begin:end], constants[begin:end] = effects.of_latents(batch)
            chosen = torch.cat([chosen, batch])
            bar.update(len(batch))
        influence = _influence(rows[: len(chosen)], chosen, direct)
    order = chosen.argsort()
    return Expansion(chosen[order], rows[: len(chosen)][order], constants[: len(chosen)][order], influence)


def _influence(rows: Tensor, chosen: Tensor, direct: Tensor) -> Tensor:
    sums = row_sums(rows).clamp_min(torch.finfo(rows.dtype).tiny)
    between = rows[:, chosen].abs() / sums[:, None]
    return direct + weighted_sum(propagated(direct[chosen], between) / sums, rows)
