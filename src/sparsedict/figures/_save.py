"""`save`, which writes a figure to files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sparsedict import checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 200


def save(figure: Axes | Figure, path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Writes a figure as PNG and SVG. The same figure gives the same bytes.

    Args:
        figure: A figure, or Axes of a figure.
        path: Path with or without the suffix ``.png`` or ``.svg``.

    Returns:
        The paths of the PNG and the SVG file.

    Raises:
        TypeError: If ``figure`` is neither a figure nor Axes.
    """
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    owner = figure.get_figure(root=True) if isinstance(figure, Axes) else figure
    if not isinstance(owner, Figure):
        raise TypeError(f"`figure` must be a matplotlib Figure or Axes, got {type(figure).__name__}.")
    base = checks.path("path", path)
    base = base.with_suffix("") if base.suffix in (".png", ".svg") else base
    base.parent.mkdir(parents=True, exist_ok=True)
    png, svg = (base.with_name(base.name + ending) for ending in (".png", ".svg"))
    # By default, SVG ids are random, and both formats contain a date or version.
    with matplotlib.rc_context({"svg.hashsalt": "sparsedict", "svg.fonttype": "path"}):
        FigureCanvasAgg(owner).print_figure(png, dpi=DOTS_PER_INCH, metadata={"Software": None})
        FigureCanvasSVG(owner).print_figure(svg, metadata={"Date": None, "Creator": None})
    return png, svg
