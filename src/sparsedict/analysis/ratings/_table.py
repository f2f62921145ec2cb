"""`table`, the mean grade of each kind of latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparsedict import checks
from sparsedict.analysis._bootstrap import Estimate, bootstrap, bootstrap_mean
from sparsedict.analysis.ratings._rating import Ratings
from sparsedict.display import aligned
from sparsedict.display import table as html_table

COLUMNS = ("mean", "interval", "rated", "skipped")


@dataclass(frozen=True)
class TableRow:
    """The grades of the latents of one kind of one dictionary.

    Attributes:
        dictionary: Name of the dictionary.
        kind: Kind of the latents. Empty if kinds aren't distinguished.
        mean: Mean grade over latents. A latent that several raters graded counts once, with its mean grade.
        n_rated: Number of latents with a grade.
        n_skipped: Number of latents that every rater skipped.
        grades: Mean grade of each latent with a grade.
    """

    dictionary: str
    kind: str
    mean: Estimate
    n_rated: int
    n_skipped: int
    grades: tuple[float, ...]

    @property
    def name(self) -> str:
        """The dictionary, and the kind if there is one."""
        return f"{self.dictionary}: {self.kind}" if self.kind else self.dictionary


@dataclass(frozen=True, repr=False)
class RatingTable:
    """Mean grades by dictionary and kind. Its ``str`` is a table.

    Attributes:
        rows: The rows by name, such as ``distiller: simulator``.
        n_samples: Number of bootstrap samples.
        level: Level of the intervals.
        seed: Seed of the samples.
    """

    rows: dict[str, TableRow]
    n_samples: int
    level: float
    seed: int

    def __getitem__(self, name: str) -> TableRow:
        return self.rows[checks.one_of("name", name, self.rows)]

    def difference(self, higher: str, lower: str) -> Estimate:
        """Returns the difference of two mean grades. Latents of both rows are resampled independently.

        Args:
            higher: Name of the row from which the other is subtracted.
            lower: Name of the row that is subtracted.
        """
        a, b = (torch.tensor(self[name].grades, dtype=torch.float64, device="cpu") for name in (higher, lower))
        return bootstrap(
            lambda of: a[of[0]].mean(1) - b[of[1]].mean(1),
            (len(a), len(b)),
            n_samples=self.n_samples,
            level=self.level,
            seed=self.seed,
        )

    def __str__(self) -> str:
        return aligned({name: _cells(row) for name, row in self.rows.items()}, COLUMNS)

    def __repr__(self) -> str:
        return f"RatingTable({', '.join(f'{name}: {row.mean}' for name, row in self.rows.items())})"

    def _repr_html_(self) -> str:
        rows = [(name, *_cells(row).values()) for name, row in self.rows.items()]
        return html_table(f"Mean grades, {self.level:.0%} intervals", rows, ("", *COLUMNS))


def table(ratings: Ratings, *, n_samples: int = 10_000, level: float = 0.95, seed: int = 0) -> RatingTable:
    """Returns the mean grade of each kind of latents of each dictionary, with bootstrap intervals over latents.

    Args:
        ratings: Ratings by one or several raters. The grade of a latent is the mean over the raters who graded it.
        n_samples: Number of bootstrap samples.
        level: Level of the intervals.
        seed: Seed of the samples.

    Raises:
        ValueError: If there are no ratings.

    Source: table 1 of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.

    Example:
        >>> from sparsedict.analysis.ratings import Rating, Ratings, table
        >>> grades = [("simulators", 0), ("simulators", 1), ("simulators", 1), ("sparse latents", 4)]
        >>> of = [Rating("anna", "distiller", i, grade, kind) for i, (kind, grade) in enumerate(grades)]
        >>> print(table(Ratings(tuple(of))))
                                    mean      interval  rated  skipped
        distiller: simulators      0.667  0.000, 1.000      3        0
        distiller: sparse latents  4.000             -      1        0
    """
    checks.instance("ratings", ratings, Ratings, "`Ratings`, as `ratings.read` returns them")
    if not len(ratings):
        raise ValueError("`ratings` must contain at least one rating, got none.")
    means = ratings.means()
    groups: dict[tuple[str, str], dict[tuple[str, int], None]] = {}
    for rating in ratings:
        groups.setdefault((rating.dictionary, rating.kind), {})[rating.unit] = None
    rows = {}
    for (dictionary, kind), units in groups.items():
        grades = torch.tensor([means[unit] for unit in units if unit in means], dtype=torch.float64, device="cpu")
        mean = bootstrap_mean(grades, n_samples=n_samples, level=level, seed=seed)
        row = TableRow(dictionary, kind, mean, len(grades), len(units) - len(grades), tuple(grades.tolist()))
        rows[row.name] = row
    return RatingTable(rows, n_samples, level, seed)


def _cells(row: TableRow) -> dict[str, str]:
    has_interval = row.mean.low == row.mean.low
    return {
        "mean": f"{row.mean.value:.3f}" if row.n_rated else "-",
        "interval": f"{row.mean.low:.3f}, {row.mean.high:.3f}" if has_interval else "-",
        "rated": str(row.n_rated),
        "skipped": str(row.n_skipped),
    }
