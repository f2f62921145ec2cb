"""Parameter sets that contain every pair of values, for properties that depend on at most two factors at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any


def pairwise(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Returns rows with a value of each factor, so that every pair of values of two factors is in a row.

    Each row is the one of the product with the most pairs that are in no earlier row. Values may be equal or
    unhashable, because pairs are those of their places.

    Args:
        factors: The values of each factor.
    """
    places = [range(len(factor)) for factor in factors]
    rows, left = list(product(*places)), set[tuple[tuple[int, int], ...]]()
    for row in rows:
        left |= _pairs(row)
    found: list[tuple[Any, ...]] = []
    while left:
        best = max(rows, key=lambda row: len(_pairs(row) & left))
        left -= _pairs(best)
        found.append(tuple(factor[place] for factor, place in zip(factors, best, strict=True)))
    return found


def _pairs(row: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
    return set(combinations(enumerate(row), 2))
