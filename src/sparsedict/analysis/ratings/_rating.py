"""`Rating`, the grade of one latent by one rater, and `Ratings`, a collection."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

from sparsedict import checks
from sparsedict.display import table

GRADES = range(5)
"""The grades, from 0 (no rule) to 4 (one rule explains every example)."""


@dataclass(frozen=True)
class Rating:
    """The grade of one latent by one rater.

    Attributes:
        rater: Name of the rater.
        dictionary: Name of the dictionary.
        latent: Index of the latent.
        grade: Grade from 0 to 4. ``None`` if the rater skipped the latent.
        kind: Kind of the latent within its dictionary, such as ``simulator``. Empty if kinds aren't distinguished.
        maximum: Largest activation of the latent on the text of the examples. ``None`` if it is unknown.
        time: Time of the rating in UTC, in the format of ISO 8601. Empty if it is unknown.

    Raises:
        ValueError: If the grade isn't one of 0 to 4.
    """

    rater: str
    dictionary: str
    latent: int
    grade: int | None
    kind: str = ""
    maximum: float | None = None
    time: str = ""

    def __post_init__(self) -> None:
        checks.set_at_least(self, "latent", 0)
        if self.grade is not None:
            checks.set_at_least(self, "grade", 0)
            if self.grade not in GRADES:
                raise ValueError(f"`grade` must be an integer from 0 to {GRADES[-1]}, or None, got {self.grade}.")
        if self.maximum is not None and not math.isfinite(checks.number("maximum", self.maximum)):
            raise ValueError(f"`maximum` must be finite, or None, got {self.maximum}.")

    @property
    def unit(self) -> tuple[str, int]:
        """The dictionary and the latent."""
        return self.dictionary, self.latent


@dataclass(frozen=True, repr=False)
class Ratings:
    """Ratings of several latents, by one or several raters.

    Attributes:
        ratings: The ratings, at most one for each rater and latent.

    Raises:
        ValueError: If a rater has two ratings of one latent.
    """

    ratings: tuple[Rating, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratings", checks.items("ratings", self.ratings, Rating, "a list of `Rating`"))
        seen: set[tuple[str, str, int]] = set()
        for rating in self.ratings:
            if (found := (rating.rater, *rating.unit)) in seen:
                raise ValueError(
                    f"`ratings` must contain one rating for each rater and latent, but rater {rating.rater!r} rated "
                    f"latent {rating.latent} of {rating.dictionary!r} twice. Remove one of them, or use another name "
                    "for each rater."
                )
            seen.add(found)

    def __len__(self) -> int:
        return len(self.ratings)

    def __iter__(self) -> Iterator[Rating]:
        return iter(self.ratings)

    @property
    def raters(self) -> tuple[str, ...]:
        """The names of the raters, in the order of the ratings."""
        return tuple(dict.fromkeys(rating.rater for rating in self.ratings))

    @property
    def dictionaries(self) -> tuple[str, ...]:
        """The names of the dictionaries, in the order of the ratings."""
        return tuple(dict.fromkeys(rating.dictionary for rating in self.ratings))

    def of(self, dictionary: str, kind: str | None = None) -> Ratings:
        """Returns the ratings of one dictionary, optionally of one kind of latents.

        Raises:
            ValueError: If there are no ratings of the dictionary.
        """
        checks.one_of("dictionary", dictionary, self.dictionaries)
        return Ratings(
            tuple(r for r in self.ratings if r.dictionary == dictionary and (kind is None or r.kind == kind))
        )

    def by(self, rater: str) -> Ratings:
        """Returns the ratings of one rater.

        Raises:
            ValueError: If there are no ratings of the rater.
        """
        checks.one_of("rater", rater, self.raters)
        return Ratings(tuple(r for r in self.ratings if r.rater == rater))

    def means(self) -> Mapping[tuple[str, int], float]:
        """Returns the mean grade over raters by dictionary and latent. Skips aren't counted."""
        grades: dict[tuple[str, int], list[int]] = {}
        for rating in self.ratings:
            if rating.grade is not None:
                grades.setdefault(rating.unit, []).append(rating.grade)
        return {unit: fmean(given) for unit, given in grades.items()}

    def __repr__(self) -> str:
        skipped = sum(rating.grade is None for rating in self.ratings)
        return f"Ratings({len(self)} ratings, {skipped} of them skipped, raters={', '.join(self.raters)})"

    def _repr_html_(self) -> str:
        rows = [(r.rater, r.dictionary, r.kind, str(r.latent), _grade(r)) for r in self.ratings]
        return table("Ratings", rows, ("rater", "dictionary", "kind", "latent", "grade"))


def _grade(rating: Rating) -> str:
    return "skipped" if rating.grade is None else str(rating.grade)
