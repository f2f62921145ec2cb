"""The first latents by kind, and what people rated them."""

from __future__ import annotations

from collections.abc import Mapping

from sparsedict.studies._study import Numbers
from sparsedict.studies.report._reading import rank_correlation

HIGHEST = 4
"""Rating."""
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
    """Returns what people rated, by dictionary and latent.

    Raises:
        ValueError: If it isn't a rating of one of the latents shown.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in numbers["of"]}
    given = numbers.get("given") or {}
    if not isinstance(given, Mapping) or not set(given) <= set(found):
        raise ValueError(f"`ratings.json` must hold an object for each of {', '.join(found)}, got {given!r:.80}.")
    for name, ratings in given.items():
        shown = {str(latent["latent"]) for latent in numbers["of"][name]}
        for latent, rating in ratings.items() if isinstance(ratings, Mapping) else [("", ratings)]:
            if latent not in shown or not isinstance(rating, int | float) or not 0 <= rating <= HIGHEST:
                raise ValueError(
                    f"`ratings.json` must give the {name}'s latents, by their numbers on the page, ratings from 0 to "
                    f"{HIGHEST}, got {rating!r:.40} for {latent!r}."
                )
            found[name][int(latent)] = rating
    return found


def known(latents: list[Numbers], key: str) -> list[float]:
    return [latent[key] for latent in latents if latent[key] is not None]


def count(latents: list[Numbers], key: str) -> int:
    return len(known(latents, key))


def mean(latents: list[Numbers], key: str) -> float | None:
    values = known(latents, key)
    return sum(values) / len(values) if values else None


def rank(latents: list[Numbers], key: str) -> float | None:
    maxima = [latent["max"] for latent in latents if latent[key] is not None]
    return rank_correlation(maxima, known(latents, key))
