"""The first latents by kind, and their ratings by people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import torch

from sparsedict.analysis import Example, TopExamples, ratings
from sparsedict.analysis.ratings import Ratings
from sparsedict.pages.rating import RatingSet, rating_set

from ..estimates import Measured
from ..study import Numbers
from .reading import rank_correlation

MIN_ERROR = 1e-9
"""Smallest standard error. Zero stands for an unknown error."""
Kinds = dict[str, list[Numbers]]
"""Latents by kind."""


def by_kind(numbers: Numbers) -> Kinds:
    """Returns the latents by kind, with the mean rating of each latent over all raters."""
    means = given_ratings(numbers).means()
    return split(
        {
            name: [{**latent, "rating": means.get((name, latent["latent"]))} for latent in latents]
            for name, latents in numbers["of"].items()
        }
    )


def split(of: Mapping[str, list[Numbers]]) -> Kinds:
    """Returns the latents of a student and an autoencoder by kind."""
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


def given_ratings(numbers: Numbers) -> Ratings:
    """Returns the ratings in the folder of the replication.

    Raises:
        ValueError: If a file has another format, or a rating isn't for one of the latents shown.
    """
    given = numbers.get("given") or {}
    is_blind = any(isinstance(document, Mapping) and document.get("set") for document in given.values())
    found = ratings.parse(given, key=rating_set_of(numbers).key if is_blind else None)
    shown = {(name, latent["latent"]) for name, latents in numbers["of"].items() for latent in latents}
    for rating in found:
        if rating.unit not in shown:
            raise ValueError(
                f"`ratings` must be of the latents on the page, from {', '.join(numbers['of'])}, got latent "
                f"{rating.latent} of {rating.dictionary!r:.40} by {rating.rater!r:.40}."
            )
    return found


def rating_set_of(numbers: Numbers) -> RatingSet:
    """Returns the latents for a blind rating, which only depend on the numbers."""
    strings = {int(token): text for token, text in numbers["strings"].items()}
    student = numbers["of"]["student"]
    return rating_set(
        {name: {own["latent"]: examples_from(own) for own in latents} for name, latents in numbers["of"].items()},
        kinds={"student": ["simulator" if own["simulator"] else "sparse latent" for own in student]},
        strings=lambda ids: [strings.get(token, f"[{token}]") for token in ids],
        n_per_kind=max(map(len, numbers["of"].values())),
        min_examples=1,
    )


def examples_from(latent: Numbers) -> TopExamples:
    """Returns the examples of a latent from its numbers."""
    examples = tuple(
        Example(torch.tensor(e["tokens"]), torch.tensor(e["activations"]), e["peak"], e["sequence"], e["position"])
        for e in latent["examples"]
    )
    return TopExamples(latent["latent"], examples, latent["n_tokens"])


def known(latents: list[Numbers], key: str) -> list[float]:
    return [latent[key] for latent in latents if latent[key] is not None]


def count(latents: list[Numbers], key: str) -> int:
    return len(known(latents, key))


def estimates(kinds: Kinds, keys: Sequence[str] = ("rating", "share")) -> Measured:
    """Returns mean values of some keys by kind, and rank correlations with the maximum by dictionary."""
    found: dict[str, dict[str, Any]] = {}
    for key in keys:
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
