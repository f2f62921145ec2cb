"""Line and scatter plots: `curves`, `points` and plots against the L1 coefficient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from sparsedict import checks
from sparsedict.analysis import AblatedError, LatentTypes, ReconstructionError
from sparsedict.figures._axes import finish, own_axes
from sparsedict.figures.palette import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scale = Literal["linear", "log"]
MAX_PLACES = 7
"""Largest number of x values that are labelled individually, on a logarithmic axis or for integers."""
MIN_GAP = 0.1
"""Smallest distance between two such labels, as a share of the axis."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""More than there are colours, so that no two of many series have the same colour and marker."""


@dataclass(frozen=True)
class Curve:
    """The data and style of a curve.

    Attributes:
        x: Horizontal coordinates.
        y: Vertical coordinates.
        colour: Colour of the curve. By default the next colour of the palette's series.
        dashed: Whether the line is dashed.
        errors: Error bars: the half-width of each interval, or its extent below and above the point. None by default.
    """

    x: Sequence[float]
    y: Sequence[float]
    colour: str | None = None
    dashed: bool = False
    errors: Sequence[float | tuple[float, float]] | None = None

    def __post_init__(self) -> None:
        if self.errors is not None and len(self.errors) != len(self.y):
            raise ValueError(
                f"`errors` must have one value for each value of `y`, got {len(self.errors)} for {len(self.y)}."
            )
        if len(self.x) != len(self.y) or not len(self.x):
            raise ValueError(
                f"`y` must have one value for each value of `x`, and at least one, got {len(self.y)} for {len(self.x)}."
            )


def curves(
    curves: Mapping[str, Curve],
    x_label: str,
    y_label: str,
    *,
    x_scale: Scale = "linear",
    y_scale: Scale = "linear",
    x_names: Mapping[float, str] | None = None,
    levels: Mapping[str, float] | None = None,
    markers: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draws curves in the colours of the palette, with different markers.

    Args:
        curves: Curves by name, for the legend.
        x_label: Label of the horizontal axis, with its unit.
        y_label: Label of the vertical axis, with its unit.
        x_scale: Scale of the horizontal axis.
        y_scale: Scale of the vertical axis.
        x_names: Labels of some horizontal coordinates, instead of numbers.
        levels: Horizontal lines by name, in colours that no curve uses.
        markers: Whether to draw markers.
        ax: Axes to draw on. A new figure by default.

    Raises:
        ValueError: If there is no curve, or a scale is invalid.

    Example:
        >>> curves({"a": Curve([1, 2], [3, 4])}, "tokens", "error").get_xlabel()
        'tokens'
    """
    checks.one_of("x_scale", x_scale, ("linear", "log"))
    checks.one_of("y_scale", y_scale, ("linear", "log"))
    if not curves:
        raise ValueError("`curves` must contain at least one curve, got none.")
    ax = own_axes(ax)
    n_drawn = 0
    for index, (name, curve) in enumerate(curves.items()):
        colour = curve.colour or Palette.SERIES[n_drawn % len(Palette.SERIES)]
        n_drawn += curve.colour is None
        order = sorted(range(len(curve.x)), key=lambda i: curve.x[i])
        # A single point gets a marker and no line.
        line = "none" if len(order) == 1 else "--" if curve.dashed else "-"
        x, y = [curve.x[i] for i in order], [curve.y[i] for i in order]
        ax.plot(
            x,
            y,
            color=colour,
            linestyle=line,
            linewidth=1.1,
            marker=MARKERS[index % len(MARKERS)] if markers or len(order) == 1 else None,
            markersize=3.2,
            label=name,
        )
        if curve.errors is not None:
            parts = [e if isinstance(e, tuple) else (e, e) for e in (curve.errors[i] for i in order)]
            bars = [list(side) for side in zip(*parts, strict=True)]
            ax.errorbar(x, y, yerr=bars, fmt="none", ecolor=colour, elinewidth=0.8, capsize=1.8)
    taken = {line.get_color() for line in ax.lines}
    free = [colour for colour in Palette.SERIES if colour not in taken] or list(Palette.SERIES)
    for index, (name, level) in enumerate((levels or {}).items()):
        ax.axhline(level, color=free[index % len(free)], linewidth=1.0, linestyle=":", label=name)
    ax.set_xscale(x_scale)
    ax.set_yscale(y_scale)
    _plain_ticks(ax, x_scale, y_scale)
    places = sorted({float(f"{x:.3g}") for curve in curves.values() for x in curve.x})
    whole = all(place.is_integer() for place in places)
    if markers and (x_scale == "log" or whole) and len(places) <= MAX_PLACES and _apart(places, x_scale):
        _ticks_at(ax, places, x_names or {})
    return finish(ax, x_label, y_label, n_legend_columns=2)


def ablated_errors(
    errors: Mapping[float, AblatedError], autoencoder: ReconstructionError | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draws the reconstruction error against the L1 coefficient, with all latents and with one type of latents only.

    Each curve has the colour of the remaining latents. The other latents are ablated.

    Args:
        errors: Errors by coefficient.
        autoencoder: Error of an autoencoder, for comparison.
        ax: Axes to draw on. A new figure by default.

    Source: figure 5 (top) of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.
    """
    checks.mapping("errors", errors, AblatedError, "a mapping of coefficients to errors", empty=False)
    xs = list(errors)
    drawn = {
        "full": Curve(xs, [e.full.squared_error for e in errors.values()], Palette.DISTILLER),
        "sparse latents alone": Curve(xs, [e.simulators.squared_error for e in errors.values()], Palette.SPARSE),
        "simulators alone": Curve(xs, [e.sparse.squared_error for e in errors.values()], Palette.SIMULATORS),
    }
    if autoencoder is not None:
        level = [autoencoder.squared_error] * 2
        drawn["autoencoder"] = Curve([min(xs), max(xs)], level, Palette.AUTOENCODER, dashed=True)
    return curves(drawn, L1_LABEL, "squared error per token", x_scale="log", y_scale="log", ax=ax)


def type_shares(types: Mapping[float, LatentTypes], *, ax: Axes | None = None) -> Axes:
    """Draws the shares of simulators and of latents that never fire against the L1 coefficient.

    Args:
        types: Types of latents by coefficient. Dead latents are drawn if they are known.
        ax: Axes to draw on. A new figure by default.

    Source: figure 5 (bottom) of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.
    """
    checks.mapping("types", types, LatentTypes, "a mapping of coefficients to types of latents", empty=False)
    drawn = {"simulators": Curve(list(types), [100 * t.share for t in types.values()], Palette.SIMULATORS)}
    dead = {c: 100 * t.n_dead / t.n_latents for c, t in types.items() if t.n_dead is not None}
    if dead:
        drawn["never fired"] = Curve(list(dead), list(dead.values()), Palette.DEAD)
    ax = curves(drawn, L1_LABEL, "share of latents (%)", x_scale="log", ax=ax)
    ax.set_ylim(bottom=0)
    return ax


def points(
    points: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    *,
    colours: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws sets of points with different markers.

    Args:
        points: Horizontal and vertical coordinates of each set, by name. Empty sets are left out.
        x_label: Label of the horizontal axis, with its unit.
        y_label: Label of the vertical axis, with its unit.
        colours: Colours of some sets by name. By default the palette's series.
        ax: Axes to draw on. A new figure by default.
    """
    ax = own_axes(ax)
    for index, (name, (x, y)) in enumerate(points.items()):
        if len(x):
            colour = (colours or {}).get(name, Palette.SERIES[index % len(Palette.SERIES)])
            ax.scatter(
                x, y, s=12, alpha=0.7, linewidths=0, color=colour, marker=MARKERS[index % len(MARKERS)], label=name
            )
    return finish(ax, x_label, y_label, n_legend_columns=2)


L1_LABEL = "L1 coefficient, per token"


def _apart(places: Sequence[float], scale: Scale) -> bool:
    """Returns whether labels at all of these coordinates fit beside each other."""
    at = [math.log(place) for place in places] if scale == "log" else list(places)
    return all(later - earlier >= MIN_GAP * (at[-1] - at[0]) for earlier, later in pairwise(at))


def _ticks_at(ax: Axes, places: Sequence[float], names: Mapping[float, str]) -> None:
    """Labels the given coordinates instead of round numbers."""
    from matplotlib.ticker import NullLocator

    ax.set_xticks(places, [names.get(place, f"{place:g}") for place in places])
    ax.xaxis.set_minor_locator(NullLocator())


def _plain_ticks(ax: Axes, x_scale: Scale, y_scale: Scale) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis, scale in ((ax.xaxis, x_scale), (ax.yaxis, y_scale)):
        if scale == "log":
            low, high = sorted(axis.get_view_interval())
            subs = (1.0,) if high > 300 * low else (1.0, 2.0, 5.0) if high > 5 * low else tuple(range(1, 10))
            axis.set_major_locator(LogLocator(subs=subs))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
