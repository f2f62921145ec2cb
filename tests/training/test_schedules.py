"""Learning-rate schedules."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedict.training import Constant, Cosine, Linear, Schedule

SCHEDULES = [
    Constant(),
    Constant(warm_up=0.2),
    Cosine(),
    Cosine(warm_up=0.1, final=0.01),
    Linear(),
    Linear(warm_up=0.1, start=0.5, final=0.2),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@given(n_steps=st.integers(1, 300), beyond=st.integers(0, 20))
def test_rate_is_positive_and_at_most_the_peak(schedule: Schedule, n_steps: int, beyond: int):
    factors = [schedule.factor(step, n_steps) for step in range(n_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    # A run may outlast its plan where batches are of unknown size: the rate then stays where it ended.
    assert schedule.factor(n_steps + beyond, n_steps) == pytest.approx(schedule.decay(1.0))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_rate_rises_through_the_warm_up_and_never_after(schedule: Schedule):
    n_warm = round(schedule.warm_up * 100)
    factors = [schedule.factor(step, 100) for step in range(100)]
    assert factors[: n_warm + 1] == sorted(factors[: n_warm + 1])
    assert factors[n_warm] == 1.0
    assert factors[n_warm:] == sorted(factors[n_warm:], reverse=True)


def test_cosine_ends_at_its_final_share():
    assert Cosine(final=0.01).factor(10_000, 10_000) == pytest.approx(0.01)
    assert Cosine().factor(50, 100) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)


def test_linear_holds_the_peak_until_its_start():
    schedule = Linear(start=0.5)
    assert schedule.factor(50, 100) == 1.0
    assert schedule.factor(75, 100) == pytest.approx(0.5)


@pytest.mark.parametrize("make", [lambda: Cosine(warm_up=-0.1), lambda: Cosine(final=2.0), lambda: Linear(start=1.0)])
def test_bad_shares_raise(make):
    with pytest.raises(ValueError, match=r"must lie in .* got"):
        make()
