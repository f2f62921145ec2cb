"""Errors of distillers over those of autoencoders at the same number of active latents."""

from __future__ import annotations

import math

from sparsedict.studies._study import Numbers


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
    curve = sorted(
        (math.log(p["l0"]), math.log(p["fvu"])) for p in of_form(points, "JumpReLU", "autoencoder") if p["l0"]
    )
    if len(curve) < 2 or not ours["l0"]:
        return None
    x = math.log(ours["l0"])
    # Outside of the curve its first or last piece goes on.
    left = max(0, min(len(curve) - 2, sum(at < x for at, _ in curve) - 1))
    (x0, y0), (x1, y1) = curve[left : left + 2]
    return ours["fvu"] / math.exp(y0 + (y1 - y0) * (x - x0) / (x1 - x0)) if x1 != x0 else None
