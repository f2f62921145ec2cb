"""`DisplayedAxes`, Axes that a notebook displays as an image. This module imports matplotlib."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

DOTS_PER_INCH = 140
"""Screen resolution. A figure of one column width has 460 pixels."""


class DisplayedAxes(Axes):
    """Axes of a figure outside of pyplot. A notebook displays the whole figure as an image."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        figure = self.get_figure(root=True)
        assert figure is not None
        FigureCanvasAgg(figure).print_figure(buffer, dpi=DOTS_PER_INCH)
        return buffer.getvalue()
