"""Ratios of the errors of distillers and autoencoders at the same number of active latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..estimates import Ratio

KINDS = ("distiller", "distiller with skip", "autoencoder")
FAR = 2.0
"""Ratio above which an error counts as far larger than another. The ratio in the report is 3.06."""
RATIO_LABEL = "FVU ratio, transcoder / SAE"


def ratio_of(place: str, kind: str, key: str = "FVU") -> Ratio:
    """Returns the ratio of the errors of a distiller and an autoencoder, named ``"place, kind: key"``."""
    return Ratio(f"{place}, {kind}: {key}", f"{place}, autoencoder: {key}")


def read_off(curve: Sequence[tuple[float, float]], l0: float) -> float | None:
    """Interpolates the error at an L0 on logarithmic axes, or returns None for fewer than two points.

    Outside of the curve, the first or last segment is extrapolated.
    """
    known = sorted({x: (math.log(x), math.log(y)) for x, y in curve if x > 0 and y > 0}.values())
    if len(known) < 2 or l0 <= 0:
        return None
    x = math.log(l0)
    left = max(0, min(len(known) - 2, sum(at < x for at, _ in known) - 1))
    (x0, y0), (x1, y1) = known[left : left + 2]
    return math.exp(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
