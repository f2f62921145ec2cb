from __future__ import annotations

from itertools import combinations, product

import pytest

from pairs import pairwise


@pytest.mark.parametrize("sizes", [(4, 2, 3), (3, 3, 3, 3), (5, 1), (2,)])
def test_every_pair_of_values_is_in_a_row(sizes: tuple[int, ...]) -> None:
    factors = [[f"{name}{i}" for i in range(size)] for name, size in zip("abcd", sizes, strict=False)]
    rows = pairwise(*factors)
    for one, other in combinations(range(len(sizes)), 2):
        assert {(row[one], row[other]) for row in rows} == set(product(factors[one], factors[other]))
    assert len(rows) <= len(list(product(*factors)))
    assert len(sizes) < 4 or len(rows) < 20
