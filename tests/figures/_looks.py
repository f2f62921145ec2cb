"""Requirements on the appearance of every figure."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import StepPatch

from sparsedict.figures._axes import SMALL_SIZE


def legend_of(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def stacked(ax: Axes) -> list[tuple[StepPatch, float]]:
    """Returns the parts of stacked histograms, each with the number of values that it shows."""
    shown = [patch for patch in ax.patches if isinstance(patch, StepPatch) and patch.get_fill()]
    return [(patch, float((patch.get_data().values - patch.get_data().baseline).sum())) for patch in shown]


def check_looks(ax: Axes) -> None:
    """Labelled axes, text that can be read on paper, and a legend that covers no data."""
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    figure = ax.figure
    figure.draw_without_rendering()
    texts = [ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels(), *ax.get_yticklabels(), *ax.texts]
    legend = ax.get_legend()
    if legend is not None:
        texts += legend.get_texts()
        assert legend.get_window_extent().y0 >= ax.get_window_extent().y1
        assert legend.get_window_extent().x1 <= figure.bbox.x1
    assert all(text.get_fontsize() >= SMALL_SIZE for text in texts if text.get_text())
    for text in texts:
        if text.get_text() and text.get_visible() and text not in ax.get_xticklabels() + ax.get_yticklabels():
            box = text.get_window_extent()
            assert box.x0 >= -1, text
            assert box.x1 <= figure.bbox.x1 + 1, text
