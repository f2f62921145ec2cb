"""Drawing of null distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sparsedict.figures.palette import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOM = 1.15
"""Height of the Axes relative to the highest bar of the data."""


def draw_null(
    ax: Axes, heights: np.ndarray, edges: np.ndarray, tallest: float, name: str = "random directions"
) -> None:
    """Draws a null distribution as an outline. A peak that is higher than the data is cut off, as the legend states.

    A null distribution is much narrower than the data, so its full peak would make the data hard to see.
    """
    cut = tallest > 0 and float(heights.max(initial=0.0)) > ROOM * tallest
    ax.stairs(heights, edges, color=Palette.NULL, linewidth=0.9, label=f"{name} (cut off)" if cut else name)
    if cut:
        ax.set_ylim(0, ROOM * tallest)
