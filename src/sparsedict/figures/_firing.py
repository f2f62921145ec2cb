"""How often latents fire."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sparsedict import checks
from sparsedict.analysis import FiringFrequencies, LatentTypes
from sparsedict.figures._axes import SMALL_SIZE, finish, own_axes
from sparsedict.figures._stacks import STACKED, draw_stack, live_groups
from sparsedict.figures.palette import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP = 0.6
"""Decades between the rarest frequency that could be seen and the spike of dead latents."""


def firing_frequency(
    firing: FiringFrequencies, types: LatentTypes | None = None, *, ax: Axes | None = None, n_bins: int = 40
) -> Axes:
    """Draws the decimal logarithm of firing frequencies by type, those that never fired as a spike set apart.

    Args:
        firing: Counts, and the tokens on which they were made.
        types: Colours the latents by type. Whether one never fired is decided by ``firing``.
        ax: Where to draw; a new figure by default.
        n_bins: Bins.

    Raises:
        ValueError: If the types are those of another dictionary.

    Source: figure 4 of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.
    """
    n_bins = checks.at_least("n_bins", n_bins, 1)
    ax = own_axes(ax)
    dead = firing.dead.mask.cpu()
    # Whether a latent is dead is decided by the counts that are drawn, not by those that the types were made of.
    parts = live_groups(types, dead)
    log10 = firing.log10
    lowest = math.floor(-math.log10(firing.n_tokens) * 2) / 2
    edges = np.linspace(lowest, 0.0, n_bins + 1)
    draw_stack(ax, log10, parts, edges)
    left = lowest
    if bool(dead.any()):
        left = _draw_spike(ax, int(dead.sum()), lowest, float(edges[1] - edges[0]))
    ax.set_xlim(left, 0.0)
    ticks = list(range(math.ceil(lowest), 1))
    names = [f"\N{MINUS SIGN}{-tick}" if tick else "0" for tick in ticks]
    if left < lowest:
        ticks, names = [lowest - GAP, *ticks], ["never", *names]
    ax.set_xticks(ticks, names)
    return finish(ax, f"log10 of firing frequency, on {firing.n_tokens:,} tokens", STACKED, n_legend_columns=2)


def _draw_spike(ax: Axes, n_dead: int, lowest: float, width: float) -> float:
    """Draws dead latents as one bar no higher than the rest, whose number is written on it; returns its left end."""
    highest = ax.get_ylim()[1] if ax.patches else n_dead
    ax.set_ylim(0, highest * 1.08)
    height = min(n_dead, highest)
    ax.bar(lowest - GAP, height, width * 2, color=Palette.DEAD, label=f"never fired ({n_dead:,})")
    cut = " (bar cut)" if n_dead > highest else ""
    ax.annotate(
        f"{n_dead:,}{cut}",
        (lowest - GAP, height),
        xytext=(0, 2),
        textcoords="offset points",
        ha="left" if cut else "center",
        fontsize=SMALL_SIZE,
    )
    return lowest - 2 * GAP
