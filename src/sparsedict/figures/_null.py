"""What chance gives, drawn so that it doesn't set the scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sparsedict.figures.palette import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOM = 1.15
"""Height of the Axes over the tallest bar of the data."""


def draw_null(
    ax: Axes, heights: np.ndarray, edges: np.ndarray, tallest: float, name: str = "random directions"
) -> None:
    """Draws the null as an outline; its peak is cut off, and the legend says so, where it is taller than the data.

    A null is far narrower than the data, so its peak would flatten all the rest.
    """
    cut = tallest > 0 and float(heights.max(initial=0.0)) > ROOM * tallest
    ax.stairs(heights, edges, color=Palette.NULL, linewidth=0.9, label=f"{name} (cut off)" if cut else name)
    if cut:
        ax.set_ylim(0, ROOM * tallest)
