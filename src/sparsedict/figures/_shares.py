"""`decoder_shares`, a histogram of the shares of the points in the decoder norm of each latent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sparsedict import checks
from sparsedict.analysis import DecoderShares
from sparsedict.figures._axes import finish, own_axes
from sparsedict.figures.palette import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def decoder_shares(
    shares: DecoderShares, point: str | None = None, *, ax: Axes | None = None, n_bins: int = 40
) -> Axes:
    """Draws the number of latents by their relative decoder norm at a point, and the bound of exclusive latents.

    With two points, the bound for the other point is drawn, too.

    Args:
        shares: Result of `sparsedict.analysis.decoder_shares`.
        point: Name of the point; the last one by default.
        ax: Axes to draw on; a new figure by default.
        n_bins: Number of bins.

    Raises:
        ValueError: If there is no such point.

    Source: the figure of relative norms in Lindsey et al., "Sparse Crosscoders for Cross-Layer Features and Model
    Diffing", 2024.
    """
    checks.instance("shares", shares, DecoderShares, "the result of `analysis.decoder_shares`")
    point = shares.points[-1] if point is None else checks.one_of("point", point, shares.points)
    n_bins = checks.at_least("n_bins", n_bins, 1)
    values = shares.shares[shares.is_counted, shares.points.index(point)].cpu().numpy()
    ax = own_axes(ax)
    edges = np.linspace(0.0, 1.0, n_bins + 1).tolist()
    label = f"{len(values):,} latents"
    ax.hist(values, edges, color=Palette.LATENTS, label=label)
    bounds = {point: ("--", shares.exclusive_above)}
    if len(shares.points) == 2:  # the shares of a latent at both points have the sum 1
        other = next(name for name in shares.points if name != point)
        bounds = {other: (":", 1 - shares.exclusive_above), **bounds}
    for name, (style, bound) in bounds.items():
        label = f"exclusive to {name} ({len(shares.exclusive[name]):,})"
        ax.axvline(bound, color=Palette.NULL, linestyle=style, linewidth=0.8, label=label)
    ax.set_xlim(0.0, 1.0)
    return finish(ax, f"share of the decoder norm at {point}", "latents")
