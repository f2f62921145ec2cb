"""`agreement` of two raters by weighted kappa."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis._bootstrap import Estimate, bootstrap
from sparsedict.analysis.ratings._rating import Ratings
from sparsedict.display import shown, table


@dataclass(frozen=True)
class Agreement:
    """The agreement of two raters on the latents that both graded.

    Attributes:
        raters: Names of both raters.
        quadratic: Kappa with weights that grow with the square of the distance of two grades.
        linear: Kappa with weights that grow with the distance of two grades.
        same: Share of latents with equal grades.
        within_one: Share of latents with grades that differ by at most 1.
        n_both: Number of latents that both graded.
        n_skipped_by_one: Number of latents that one rater graded and the other skipped.
        n_skipped_by_both: Number of latents that both skipped.
        n_rated_by_one: Number of latents that only one rater saw.
    """

    raters: tuple[str, str]
    quadratic: Estimate
    linear: Estimate
    same: float
    within_one: float
    n_both: int
    n_skipped_by_one: int
    n_skipped_by_both: int
    n_rated_by_one: int

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("kappa, quadratic weights", str(self.quadratic)),
            ("kappa, linear weights", str(self.linear)),
            ("same grade", shown(self.same, ".1%")),
            ("within one grade", shown(self.within_one, ".1%")),
            ("graded by both", str(self.n_both)),
            ("skipped by one", str(self.n_skipped_by_one)),
            ("skipped by both", str(self.n_skipped_by_both)),
            ("seen by one only", str(self.n_rated_by_one)),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name:<26}{value}" for name, value in self._rows())

    def _repr_html_(self) -> str:
        return table(f"Agreement of {self.raters[0]} and {self.raters[1]}", self._rows())


def agreement(ratings: Ratings, *, n_samples: int = 10_000, level: float = 0.95, seed: int = 0) -> Agreement:
    r"""Returns the agreement of two raters, with bootstrap intervals over latents.

    .. math:: \kappa = 1 - \frac{\sum_{ij} w_{ij} O_{ij}}{\sum_{ij} w_{ij} E_{ij}}

    :math:`O_{ij}` is the share of latents with grade i by the first rater and j by the second,
    :math:`E_{ij}` the product of the raters' shares of these grades, and :math:`w_{ij}` is :math:`|i - j|` or
    :math:`(i - j)^2`. Kappa is 1 for equal grades and 0 for agreement by chance. It is NaN if both raters gave one
    and the same grade to every latent. A latent that one of the raters skipped isn't part of kappa; such latents are
    counted.

    Args:
        ratings: Ratings of two raters.
        n_samples: Number of bootstrap samples.
        level: Level of the intervals.
        seed: Seed of the samples.

    Raises:
        ValueError: If the ratings have fewer or more than two raters, or no latent in common.

    Source: Cohen, "Weighted kappa", Psychological Bulletin, 1968.

    Example:
        >>> from sparsedict.analysis.ratings import Rating, Ratings, agreement
        >>> grades = {"anna": [0, 1, 2, 3, 4], "ben": [0, 1, 2, 4, 4]}
        >>> of = [Rating(name, "sae", i, grade) for name, given in grades.items() for i, grade in enumerate(given)]
        >>> round(agreement(Ratings(tuple(of))).quadratic.value, 3)
        0.957
    """
    checks.instance("ratings", ratings, Ratings, "`Ratings`, as `ratings.read` returns them")
    if len(ratings.raters) != 2:
        raise ValueError(
            f"`ratings` must have two raters, got {len(ratings.raters)} ({', '.join(ratings.raters)}). Select two of "
            "them: Ratings((*ratings.by(a), *ratings.by(b)))."
        )
    name_a, name_b = ratings.raters
    a, b = ({r.unit: r.grade for r in ratings.by(name)} for name in (name_a, name_b))
    common = [unit for unit in a if unit in b]
    if not common:
        raise ValueError(f"`ratings` must have latents that both raters saw, but {name_a!r} and {name_b!r} share none.")
    pairs = [(x, y) for x, y in ((a[unit], b[unit]) for unit in common) if x is not None and y is not None]
    grades = torch.tensor(pairs, dtype=torch.long, device="cpu").reshape(-1, 2)
    gaps = (grades[:, 0] - grades[:, 1]).abs().double()
    n_skipped = [(a[unit] is None) + (b[unit] is None) for unit in common]
    quadratic, linear = (
        bootstrap(_kappa_of(grades, power), (len(grades),), n_samples=n_samples, level=level, seed=seed)
        for power in (2, 1)
    )
    return Agreement(
        (name_a, name_b),
        quadratic,
        linear,
        float((gaps == 0).double().mean()) if pairs else math.nan,
        float((gaps <= 1).double().mean()) if pairs else math.nan,
        len(pairs),
        n_skipped.count(1),
        n_skipped.count(2),
        len(a.keys() ^ b.keys()),
    )


def _kappa_of(grades: Int[Tensor, "n 2"], power: int) -> Callable[[list[Tensor]], Float[Tensor, " n_samples"]]:
    return lambda of: kappa(grades[of[0], 0], grades[of[0], 1], power)


def kappa(a: Int[Tensor, "n_samples n"], b: Int[Tensor, "n_samples n"], power: int) -> Float[Tensor, " n_samples"]:
    """Returns the weighted kappa of each row of grades, with weights ``|i - j| ** power``."""
    n_grades = 1 + int(max(a.max(), b.max()))
    steps = torch.arange(n_grades, device="cpu")
    weights = (steps[:, None] - steps).abs().double() ** power
    shares_a, shares_b = ((grades[..., None] == steps).double().mean(1) for grades in (a, b))
    observed = weights[a, b].mean(1)
    expected = ((shares_a @ weights) * shares_b).sum(1)
    return torch.where(expected > 0, 1 - observed / expected, torch.nan)
