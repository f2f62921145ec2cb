"""Creation and labelling of Axes that are legible at the width of a paper column."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMN_WIDTH = 3.3
"""Width of a paper column in inches."""
HEIGHT = 2.5
LABEL_SIZE = 8.0
SMALL_SIZE = 7.0
"""Smallest font size in points."""
LEGEND_CHARACTERS = 50
"""Number of characters in a line of a legend above Axes of one column width."""


def own_axes(ax: Axes | None) -> Axes:
    """Returns the given Axes, or the Axes of a new figure of one column width.

    Raises:
        ImportError: If matplotlib isn't installed.
        TypeError: If ``ax`` isn't matplotlib Axes.
    """
    try:
        from matplotlib.axes import Axes
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install 'sparsedict[demo]'.") from error

    if ax is None:
        from sparsedict.figures._displayed import DisplayedAxes

        figure = Figure(figsize=(COLUMN_WIDTH, HEIGHT), layout="constrained")
        return figure.subplots(subplot_kw={"axes_class": DisplayedAxes})
    if not isinstance(ax, Axes):
        raise TypeError(f"`ax` must be matplotlib Axes, got {type(ax).__name__}.")
    return ax


def finish(ax: Axes, x_label: str, y_label: str, *, n_legend_columns: int | None = 1) -> Axes:
    """Adds labels, and a legend above the Axes with at most ``n_legend_columns`` columns.

    Long names reduce the number of columns. ``None`` adds no legend.
    """
    ax.set_xlabel(x_label, fontsize=LABEL_SIZE)
    ax.set_ylabel(y_label, fontsize=LABEL_SIZE)
    ax.tick_params(which="both", labelsize=SMALL_SIZE)
    for text in (ax.xaxis.get_offset_text(), ax.yaxis.get_offset_text()):
        text.set_fontsize(SMALL_SIZE)
    ax.spines[["top", "right"]].set_visible(False)
    if n_legend_columns is not None:
        longest = max((len(label) for label in ax.get_legend_handles_labels()[1]), default=1)
        n_legend_columns = max(1, min(n_legend_columns, LEGEND_CHARACTERS // longest))
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(0.0, 1.01),
            ncols=n_legend_columns,
            fontsize=SMALL_SIZE,
            frameon=False,
            borderaxespad=0.0,
            handlelength=1.2,
            columnspacing=1.2,
        )
    return ax
