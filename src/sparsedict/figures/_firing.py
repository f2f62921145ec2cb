"""`firing_frequency`, a histogram of firing frequencies."""

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
"""Distance in decades between the lowest measurable frequency and the bar of latents that never fired."""


def firing_frequency(
    firing: FiringFrequencies, types: LatentTypes | None = None, *, ax: Axes | None = None, n_bins: int = 40
) -> Axes:
    """Draws a histogram of log10 firing frequencies by type, with a separate bar of latents that never fired.

    Args:
        firing: Firing frequencies.
        types: Types of the latents, for the colours. Dead latents are those of ``firing``.
        ax: Axes to draw on. A new figure by default.
        n_bins: Number of bins.

    Raises:
        ValueError: If ``types`` has another number of latents.

    Source: figure 4 of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.
    """
    checks.instance("firing", firing, FiringFrequencies, "the result of `firing_frequencies`")
    n_bins = checks.at_least("n_bins", n_bins, 1)
    ax = own_axes(ax)
    dead = firing.dead.mask.cpu()
    # Dead latents are determined by the counts drawn here, which may differ from those of the types.
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
    """Draws a labelled bar of dead latents, not higher than the other bars. Returns the left limit of the axis."""
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
