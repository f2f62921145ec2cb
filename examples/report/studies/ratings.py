"""The first latents by kind, and their ratings by people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any

from ..estimates import Measured
from ..study import Numbers
from .reading import rank_correlation

HIGHEST = 4
"""Highest rating."""
MIN_ERROR = 1e-9
"""Smallest standard error. Zero stands for an unknown error."""
Kinds = dict[str, list[Numbers]]
"""Latents by kind."""


def by_kind(numbers: Numbers) -> Kinds:
    ratings = _ratings(numbers)
    of = {
        name: [{**latent, "rating": ratings[name].get(latent["latent"])} for latent in latents]
        for name, latents in numbers["of"].items()
    }
    return {
        "simulators": [latent for latent in of["student"] if latent["simulator"]],
        "sparse latents": [latent for latent in of["student"] if not latent["simulator"]],
        "autoencoder": of["autoencoder"],
    }


def by_dictionary(kinds: Kinds) -> Kinds:
    return {
        "the student's": kinds["simulators"] + kinds["sparse latents"],
        "the autoencoder's": kinds["autoencoder"],
    }


def _ratings(numbers: Numbers) -> dict[str, dict[int, float]]:
    """Returns the ratings by dictionary and latent.

    Raises:
        ValueError: If a rating is invalid, or isn't for one of the latents shown.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in numbers["of"]}
    given = numbers.get("given") or {}
    if not isinstance(given, Mapping) or not set(given) <= set(found):
        raise ValueError(f"`ratings.json` must contain an object for each of {', '.join(found)}, got {given!r:.80}.")
    for name, ratings in given.items():
        shown = {str(latent["latent"]) for latent in numbers["of"][name]}
        for latent, rating in ratings.items() if isinstance(ratings, Mapping) else [("", ratings)]:
            if latent not in shown or not isinstance(rating, int | float) or not 0 <= rating <= HIGHEST:
                raise ValueError(
                    f"`ratings.json` must contain ratings from 0 to {HIGHEST} by latent of the {name}, as numbered on "
                    f"the page, got {rating!r:.40} for {latent!r}."
                )
            found[name][int(latent)] = rating
    return found


def known(latents: list[Numbers], key: str) -> list[float]:
    return [latent[key] for latent in latents if latent[key] is not None]


def count(latents: list[Numbers], key: str) -> int:
    return len(known(latents, key))


def estimates(kinds: Kinds) -> Measured:
    """Returns mean ratings and shares by kind, and rank correlations with the maximum by dictionary."""
    found: dict[str, dict[str, Any]] = {}
    for key in ("rating", "share"):
        found |= {f"{key}: {kind}": _mean(known(of, key)) for kind, of in kinds.items() if known(of, key)}
        found |= {f"rank by {key}: {name}": _rank(of, key) for name, of in by_dictionary(kinds).items()}
    return found


def _mean(values: list[float]) -> dict[str, Any]:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"values": [fmean(values)], "sampling": max(error, MIN_ERROR) if len(values) > 1 else 0.0}


def _rank(latents: list[Numbers], key: str) -> dict[str, Any]:
    """Returns the Spearman correlation with Fieller's standard error, ``(1 - rho^2) sqrt(1.06 / (n - 3))``."""
    maxima = [latent["max"] for latent in latents if latent[key] is not None]
    rho = rank_correlation(maxima, known(latents, key))
    error = 0.0
    if rho is not None and len(maxima) > 3:
        error = max((1 - rho**2) * math.sqrt(1.06 / (len(maxima) - 3)), MIN_ERROR)
    return {"values": [rho], "sampling": error}
