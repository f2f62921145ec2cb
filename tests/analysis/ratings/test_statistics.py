"""Mean grades, rank correlations and kappa against values computed by hand and by other libraries."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
import torch

from sparsedict.analysis.ratings import Rating, Ratings, agreement, rank_correlation, table


def rated(grades: list[int | None], *, rater: str = "anna", dictionary: str = "sae", kind: str = "") -> list[Rating]:
    return [Rating(rater, dictionary, i, grade, kind, float(i)) for i, grade in enumerate(grades)]


def test_a_latent_counts_once_with_the_mean_of_its_raters() -> None:
    both = Ratings((*rated([0, 4, None, 2]), *rated([1, None, None, 3], rater="ben")))
    row = table(both)["sae"]
    assert row.grades == (0.5, 4.0, 2.5)
    assert row.mean.value == pytest.approx(7 / 3)
    assert (row.n_rated, row.n_skipped) == (3, 1)


def test_rows_are_kinds_of_dictionaries() -> None:
    made = [Rating("a", "student", i, i % 2, "simulator") for i in range(4)]
    made += [Rating("a", "student", i, 3, "sparse latent") for i in range(4, 6)]
    made += [Rating("a", "sae", i, 4 - i % 2) for i in range(6)]
    found = table(Ratings(tuple(made)))
    assert list(found.rows) == ["student: simulator", "student: sparse latent", "sae"]
    assert [row.mean.value for row in found.rows.values()] == [0.5, 3, 3.5]
    difference = found.difference("sae", "student: simulator")
    assert difference.value == 3
    assert difference.low < 3 < difference.high
    assert difference.n == 10
    assert "student: sparse latent  3.000             -      2        0" in str(found)
    with pytest.raises(ValueError, match="`name` must be one of 'student: simulator'"):
        found["student"]


def test_a_row_of_skips_has_no_mean() -> None:
    row = table(Ratings(tuple(rated([None, None]))))["sae"]
    assert math.isnan(row.mean.value)
    assert (row.n_rated, row.n_skipped) == (0, 2)
    assert str(table(Ratings(tuple(rated([None])))))


def test_a_table_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="`ratings` must contain at least one rating, got none"):
        table(Ratings(()))


def test_the_rank_correlation_by_hand() -> None:
    # Ranks of the grades: 1, 2.5, 2.5, 4; of the scores: 2, 1, 3, 4. The sum of products of deviations is 3, those of
    # squares are 4.5 and 5.
    found = rank_correlation(Ratings(tuple(rated([0, 1, 1, 3]))), {"sae": torch.tensor([5.0, 1.0, 7.0, 9.0])})
    assert found.value == pytest.approx(3 / math.sqrt(4.5 * 5))


def test_the_rank_correlation_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    random.seed(0)
    for n in (5, 17, 60):
        grades = [random.randrange(5) for _ in range(n)]
        scores = [random.choice([0.1, 0.5, 0.7, random.random()]) for _ in range(n)]
        found = rank_correlation(Ratings(tuple(rated(grades))), {"sae": torch.tensor(scores, dtype=torch.float64)})
        assert found.value == pytest.approx(stats.spearmanr(grades, scores).statistic, abs=1e-12)
        assert found.low <= found.value <= found.high


def test_skips_and_missing_scores_are_left_out() -> None:
    grades = Ratings(tuple(rated([0, None, 2, 3, 4, 1])))
    scores = torch.tensor([0.0, 9.0, 2.0, math.nan, 4.0, 1.0])
    found = rank_correlation(grades, {"sae": scores})
    assert found.n == 4
    assert found.value == 1


def test_maxima_are_the_default_score() -> None:
    assert rank_correlation(Ratings(tuple(rated([4, 3, 2, 1, 0])))).value == -1


def test_maxima_of_several_dictionaries_are_not_compared() -> None:
    both = Ratings((*rated([0, 1]), *rated([0, 1], dictionary="b")))
    with pytest.raises(ValueError, match=r"`ratings` must be of one dictionary.*Pass `ratings.of\(name\)`"):
        rank_correlation(both)
    assert rank_correlation(both.of("b")).value == 1
    assert rank_correlation(both, {"sae": torch.arange(2.0), "b": torch.arange(2.0)}).value == 1


@pytest.mark.parametrize("grades", [[2, 2, 2], [1], [None, None]])
def test_the_correlation_of_equal_grades_is_undefined(grades: list[int | None]) -> None:
    assert math.isnan(rank_correlation(Ratings(tuple(rated(grades)))).value)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "`scores` must contain a tensor for each rated dictionary, got none for 'sae'"),
        ({"sae": torch.zeros(2)}, r"`scores\['sae'\]` must be a tensor \[n_latents\] with latent 2"),
        ({"sae": torch.zeros(3, 3)}, r"got shape \(3, 3\)"),
    ],
)
def test_scores_must_cover_the_rated_latents(scores: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rank_correlation(Ratings(tuple(rated([0, 1, 2]))), scores)


def test_unknown_maxima_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"lacks 1, such as that of latent 5. Pass `scores`"):
        rank_correlation(Ratings((Rating("a", "sae", 5, 1),)))


def two(a: list[int | None], b: list[int | None]) -> Ratings:
    return Ratings((*rated(a), *rated(b, rater="ben")))


def exact_kappa(a: list[int], b: list[int], power: int) -> Fraction:
    """Kappa by definition, over all pairs of latents."""
    n = len(a)
    observed = Fraction(sum(abs(x - y) ** power for x, y in zip(a, b, strict=True)), n)
    expected = Fraction(sum(abs(x - y) ** power for x in a for y in b), n * n)
    return 1 - observed / expected


def test_kappa_by_hand() -> None:
    # Three of four agree, the fourth differs by 2. The distances of all pairs, by the first rater's grade, sum to
    # 5 + 3 + 3 + 11 = 22, and their squares to 9 + 3 + 5 + 33 = 50.
    a, b = [0, 1, 2, 4], [0, 1, 2, 2]
    found = agreement(two([*a], [*b]))
    assert found.linear.value == pytest.approx(1 - (2 / 4) / (22 / 16))
    assert found.quadratic.value == pytest.approx(1 - (4 / 4) / (50 / 16))
    assert (found.same, found.within_one) == (0.75, 0.75)


def test_kappa_is_exact_and_that_of_scikit_learn() -> None:
    random.seed(1)
    for n in (4, 11, 50):
        a = [random.randrange(5) for _ in range(n)]
        b = [min(4, max(0, x + random.choice([-1, 0, 0, 1]))) for x in a]
        found = agreement(two([*a], [*b]))
        assert found.quadratic.value == pytest.approx(float(exact_kappa(a, b, 2)), abs=1e-12)
        assert found.linear.value == pytest.approx(float(exact_kappa(a, b, 1)), abs=1e-12)
        metrics = pytest.importorskip("sklearn.metrics")
        assert found.quadratic.value == pytest.approx(metrics.cohen_kappa_score(a, b, weights="quadratic"))
        assert found.linear.value == pytest.approx(metrics.cohen_kappa_score(a, b, weights="linear"))


def test_kappa_of_independent_grades_is_near_zero_and_of_equal_grades_is_one() -> None:
    random.seed(2)
    a, b = ([random.randrange(5) for _ in range(400)] for _ in range(2))
    assert abs(agreement(two([*a], [*b])).quadratic.value) < 0.15
    assert agreement(two([*a], [*a])).quadratic.value == 1


def test_skips_are_counted_and_left_out() -> None:
    found = agreement(two([0, 1, None, None, 4, 2], [0, 1, None, 3, None]))
    assert (found.n_both, found.n_skipped_by_one, found.n_skipped_by_both, found.n_rated_by_one) == (2, 2, 1, 1)
    assert found.quadratic.n == 2
    assert found.quadratic.value == 1


def test_kappa_of_one_grade_is_undefined() -> None:
    found = agreement(two([3, 3, 3], [3, 3, 3]))
    assert math.isnan(found.quadratic.value)
    assert found.same == 1
    assert "kappa, quadratic weights  -" in str(found)


def test_kappa_without_a_common_grade_is_undefined() -> None:
    found = agreement(two([None, 2], [1, None]))
    assert math.isnan(found.quadratic.value)
    assert math.isnan(found.same)
    assert found.n_skipped_by_one == 2


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        (rated([1, 2]), r"`ratings` must have two raters, got 1 \(anna\)"),
        ([*rated([1]), *rated([1], rater="b"), *rated([1], rater="c")], r"got 3 \(anna, b, c\)"),
        ([*rated([1]), *rated([1], rater="b", dictionary="x")], "'anna' and 'b' share none"),
    ],
)
def test_agreement_needs_two_raters_of_the_same_latents(ratings: list[Rating], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agreement(Ratings(tuple(ratings)))


def test_results_are_the_same_with_the_same_seed() -> None:
    grades = two([0, 1, 3, 4, 2, 2], [1, 1, 3, 3, 2, 4])
    assert agreement(grades) == agreement(grades)
    assert agreement(grades, seed=1).quadratic.low != agreement(grades).quadratic.low
