"""Errors of distillers over those of autoencoders at the same number of active latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparsedict.studies._study import Numbers

KINDS = ("distiller", "distiller with skip", "autoencoder")


def of_form(points: list[Numbers], activation: str, kind: str) -> list[Numbers]:
    return [p for p in points if (p["activation"], p["kind"]) == (activation, kind)]


def counts_of(points: list[Numbers]) -> list[int]:
    return [p["asked"] for p in of_form(points, "TopK", "autoencoder")]


def ratio(points: list[Numbers], n: int, kind: str, key: str = "fvu") -> float:
    """Returns a TopK distiller's error over the autoencoder's at one L0."""
    ours, theirs = (next(p for p in of_form(points, "TopK", k) if p["asked"] == n) for k in (kind, "autoencoder"))
    return ours[key] / theirs[key]


def ratio_along(points: list[Numbers], ours: Numbers) -> float | None:
    """Returns a JumpReLU distiller's error over the autoencoder's at its L0, read off the latter's curve."""
    theirs = read_off([(p["l0"], p["fvu"]) for p in of_form(points, "JumpReLU", "autoencoder")], ours["l0"])
    return None if theirs is None else ours["fvu"] / theirs


def read_off(curve: Sequence[tuple[float, float]], l0: float) -> float | None:
    """Returns the error at an L0 from errors at others, on logarithmic axes; None where there are fewer than two.

    Outside of the curve its first or last piece goes on.
    """
    known = sorted({x: (math.log(x), math.log(y)) for x, y in curve if x > 0 and y > 0}.values())
    if len(known) < 2 or l0 <= 0:
        return None
    x = math.log(l0)
    left = max(0, min(len(known) - 2, sum(at < x for at, _ in known) - 1))
    (x0, y0), (x1, y1) = known[left : left + 2]
    return math.exp(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
