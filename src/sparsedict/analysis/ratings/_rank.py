"""`rank_correlation` of grades with maxima or scores."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis._bootstrap import Estimate, bootstrap
from sparsedict.analysis.ratings._rating import Ratings


def rank_correlation(
    ratings: Ratings,
    scores: Mapping[str, Tensor] | None = None,
    *,
    n_samples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Returns the Spearman correlation of grades with maxima or scores over latents, with a bootstrap interval.

    The correlation is the Pearson correlation of ranks, where equal values have the mean of their ranks. It is NaN if
    all grades or all scores are equal. Skipped latents, and latents whose score is NaN, are left out.

    Args:
        ratings: Ratings by one or several raters. The grade of a latent is the mean over raters.
        scores: A score ``[n_latents]`` for each dictionary. By default the largest activation of each latent, for the
            ratings of one dictionary: select them with ``ratings.of(name)``, because the scale of activations differs
            between dictionaries.
        n_samples: Number of bootstrap samples.
        level: Level of the interval.
        seed: Seed of the samples.

    Raises:
        ValueError: If a dictionary has no scores, or the scores lack a latent.

    Example:
        >>> from sparsedict.analysis.ratings import Rating, Ratings, rank_correlation
        >>> grades = Ratings(tuple(Rating("anna", "sae", i, i // 2, maximum=i**2) for i in range(8)))
        >>> round(rank_correlation(grades).value, 3)
        0.976
    """
    checks.instance("ratings", ratings, Ratings, "`Ratings`, as `ratings.read` returns them")
    values = _maxima(ratings) if scores is None else _scores(ratings, scores)
    means = ratings.means()
    pairs = [(grade, values[unit]) for unit, grade in means.items()]
    both = torch.tensor(pairs, dtype=torch.float64, device="cpu").reshape(-1, 2)
    both = both[~both.isnan().any(1)]
    return bootstrap(
        lambda of: spearman(both[of[0], 0], both[of[0], 1]),
        (len(both),),
        n_samples=n_samples,
        level=level,
        seed=seed,
    )


def spearman(a: Float[Tensor, "n_samples n"], b: Float[Tensor, "n_samples n"]) -> Float[Tensor, " n_samples"]:
    """Returns the Spearman correlation of each row. NaN if a row is constant."""
    a, b = (ranks - ranks.mean(1, keepdim=True) for ranks in (mean_ranks(a), mean_ranks(b)))
    # Zero divided by zero is NaN.
    return ((a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()).clamp(-1, 1)


def mean_ranks(values: Float[Tensor, "n_samples n"]) -> Float[Tensor, "n_samples n"]:
    """Returns the ranks of each row from 1. Equal values have the mean of their ranks."""
    values = values.contiguous()
    ordered = values.sort(1).values
    left = torch.searchsorted(ordered, values)
    right = torch.searchsorted(ordered, values, right=True)
    return (left + right + 1).double() / 2


def _maxima(ratings: Ratings) -> dict[tuple[str, int], float]:
    if len(ratings.dictionaries) > 1:
        raise ValueError(
            f"`ratings` must be of one dictionary, because maxima of different dictionaries have different scales, got "
            f"{', '.join(map(repr, ratings.dictionaries))}. Pass `ratings.of(name)`."
        )
    unknown = [r.latent for r in ratings if r.maximum is None and r.grade is not None]
    if unknown:
        raise ValueError(
            f"`ratings` must contain the maximum of every latent, but lacks {len(unknown)}, such as that of latent "
            f"{unknown[0]}. Pass `scores`."
        )
    return {r.unit: float(r.maximum) for r in ratings if r.maximum is not None}


def _scores(ratings: Ratings, scores: Mapping[str, Tensor]) -> dict[tuple[str, int], float]:
    if not isinstance(scores, Mapping):
        raise TypeError(f"`scores` must map names of dictionaries to tensors, got {type(scores).__name__}.")
    found = {}
    for dictionary, latent in dict.fromkeys(rating.unit for rating in ratings):
        if dictionary not in scores:
            raise ValueError(
                f"`scores` must contain a tensor for each rated dictionary, got none for {dictionary!r}. Select "
                "ratings with `ratings.of(name)`."
            )
        given = torch.as_tensor(scores[dictionary], device="cpu")
        if given.ndim != 1 or latent >= len(given):
            raise ValueError(
                f"`scores[{dictionary!r}]` must be a tensor [n_latents] with latent {latent}, got shape "
                f"{tuple(given.shape)}."
            )
        found[dictionary, latent] = checks.number("scores", given[latent])
    return found
