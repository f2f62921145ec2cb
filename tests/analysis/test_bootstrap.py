"""Bootstrap intervals agree with SciPy's, and are absent where resampling gives no information."""

from __future__ import annotations

import math

import pytest
import torch

from sparsedict.analysis import _bootstrap
from sparsedict.analysis._bootstrap import Estimate, bootstrap, bootstrap_mean, row_intervals


def mean_of(values: torch.Tensor):
    return lambda of: values[of[0]].mean(1)


def test_the_ends_are_those_of_scipy_for_the_same_samples() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    values = torch.tensor([0, 0, 1, 0, 3, 4, 0, 1, 2, 4], dtype=torch.float64)
    found = bootstrap(mean_of(values), (10,), n_samples=2_000, seed=3)
    samples = _bootstrap._samples(mean_of(values), (10,), 2_000, 3)

    class Same:
        bootstrap_distribution = samples.numpy()

    theirs = scipy_stats.bootstrap(
        (values.numpy(),), lambda x, axis: x.mean(axis), n_resamples=0, bootstrap_result=Same(), method="BCa"
    ).confidence_interval
    assert found.value == pytest.approx(1.5)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)


def test_the_ends_of_a_difference_are_those_of_scipy_for_the_same_samples() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    a, b = torch.tensor([3.0, 4, 4, 2, 3, 4, 0]).double(), torch.tensor([0.0, 1, 0, 2]).double()

    def statistic(of):
        return a[of[0]].mean(1) - b[of[1]].mean(1)

    found = bootstrap(statistic, (7, 4), n_samples=3_000, seed=1)

    class Same:
        bootstrap_distribution = _bootstrap._samples(statistic, (7, 4), 3_000, 1).numpy()

    theirs = scipy_stats.bootstrap(
        (a.numpy(), b.numpy()),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        n_resamples=0,
        bootstrap_result=Same(),
        method="BCa",
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)


def test_samples_do_not_depend_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.arange(6).double()
    whole = bootstrap(mean_of(values), (6,), n_samples=500)
    monkeypatch.setattr(_bootstrap, "MAX_ENTRIES", 60)
    assert bootstrap(mean_of(values), (6,), n_samples=500) == whole


def test_intervals_contain_the_mean_of_the_population_about_as_often_as_stated() -> None:
    torch.manual_seed(0)
    shares = torch.tensor([0.35, 0.3, 0.2, 0.1, 0.05], dtype=torch.float64)
    mean = float(shares @ torch.arange(5).double())
    hits = 0
    for trial in range(300):
        values = torch.multinomial(shares, 25, replacement=True).double()
        found = bootstrap(mean_of(values), (25,), n_samples=500, seed=trial)
        hits += found.low <= mean <= found.high
    assert 0.90 <= hits / 300 <= 0.98


@pytest.mark.parametrize("values", [[], [2.0], [3.0, 3.0, 3.0]])
def test_there_is_no_interval_without_two_different_values(values: list[float]) -> None:
    found = bootstrap(mean_of(torch.tensor(values, dtype=torch.float64)), (len(values),))
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(found.value) if not values else found.value == values[0]


def test_a_statistic_that_most_samples_lack_has_no_interval() -> None:
    values = torch.tensor([0.0, 0, 0, 0, 0, 1]).double()

    def defined_if_both_ends(of):
        chosen = values[of[0]]
        return torch.where((chosen.max(1).values == 1) & (of[0] == 0).any(1), chosen.mean(1), math.nan)

    assert math.isnan(bootstrap(defined_if_both_ends, (6,)).low)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_samples": 0}, "`n_samples` must be at least 1"), ({"level": 1.2}, r"`level` must lie in \(0, 1\]")],
)
def test_bad_options_are_errors(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap(mean_of(torch.arange(4).double()), (4,), **options)  # type: ignore[arg-type]


def test_the_closed_form_of_a_mean_equals_the_general_bootstrap() -> None:
    values = torch.tensor([0.0, 0, 1, 0, 3, 4, 0, 1, 2, 4, 9]).double()
    one, other = bootstrap_mean(values, seed=2), bootstrap(mean_of(values), (11,), seed=2)
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), rel=1e-9)


def test_the_mean_of_many_values_takes_memory_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    n, drawn = 16_384, []
    plain = torch.randint
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: drawn.append(args[1]) or plain(*args, **kwargs))
    monkeypatch.setattr(_bootstrap, "_left_out", lambda *_: pytest.fail("the jackknife needs n * n indices"))
    values = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = bootstrap_mean(values, n_samples=200)
    assert max(rows * columns for rows, columns in drawn) <= _bootstrap.MAX_ENTRIES
    error = float(values.std()) / n**0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_the_jackknife_does_not_depend_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.tensor([0.0, 1, 5, 2, 2, 3, 9]).double()
    whole = bootstrap(lambda of: values[of[0]].median(1).values, (7,), n_samples=400)
    monkeypatch.setattr(_bootstrap, "MAX_ENTRIES", 14)
    assert bootstrap(lambda of: values[of[0]].median(1).values, (7,), n_samples=400) == whole


def test_the_intervals_of_rows_equal_those_of_single_means() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    rows = torch.rand(3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def shares(weights: torch.Tensor) -> torch.Tensor:
        return rows @ (weights.double() / weights.double().sum(0))

    low, high = row_intervals(shares, 9, n_samples=500, seed=4)
    samples = shares(_bootstrap._weights(9, 500, 4))
    for row in range(3):

        class Same:
            bootstrap_distribution = samples[row].numpy()

        theirs = scipy_stats.bootstrap(
            (rows[row].numpy(),), lambda x, axis: x.mean(axis), n_resamples=0, bootstrap_result=Same(), method="BCa"
        ).confidence_interval
        assert (float(low[row]), float(high[row])) == pytest.approx((theirs.low, theirs.high), rel=1e-6)


def test_rows_without_information_have_no_interval() -> None:
    rows = torch.tensor([[1.0, 1, 1, 1], [0, 1, 0, 1], [math.nan] * 4])
    low, high = row_intervals(lambda weights: rows @ (weights / weights.sum(0)), 4)
    assert low.isnan().tolist() == high.isnan().tolist() == [True, False, True]
    assert row_intervals(lambda weights: rows[:, :1] @ weights, 1)[0].isnan().all()


def test_numbers_that_round_to_zero_have_no_sign() -> None:
    assert str(Estimate(-1e-9, -1e-9, -0.0, 3)) == "0.000 [0.000, 0.000]"
    assert str(Estimate(-0.5, -0.6, -0.0004, 3)) == "-0.500 [-0.600, 0.000]"
