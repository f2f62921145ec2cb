"""Axes that a notebook shows as a picture. Imports matplotlib, so it is imported in the function that needs it."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

DOTS_PER_INCH = 140
"""On screen: a figure of one column is 460 pixels wide."""


class DisplayedAxes(Axes):
    """Axes of a figure that pyplot doesn't know of: a notebook shows the whole figure in place of their text."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        figure = self.get_figure(root=True)
        assert figure is not None
        FigureCanvasAgg(figure).print_figure(buffer, dpi=DOTS_PER_INCH)
        return buffer.getvalue()
