"""The samples of calls and definitions whose types are checked in tests."""

from __future__ import annotations

from collections.abc import Callable

import beartype
import pytest
from jaxtyping import TypeCheckError

import sampled_checks


def same(text: str) -> object:
    return text


def defined() -> Callable[[object], object]:
    def inner(text: str) -> object:
        return text

    return sampled_checks.jaxtyped(inner, typechecker=beartype.beartype)


def checked(call: Callable[[], object], n: int) -> list[int]:
    """Returns which of the next calls raise an error of the checks, counted from 1."""
    found = []
    for number in range(1, n + 1):
        try:
            call()
        except (TypeError, TypeCheckError):
            found.append(number)
    return found


@pytest.fixture(autouse=True)
def _new_test(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--check-every-call"):
        pytest.skip("all calls are checked")


def test_the_first_calls_and_then_fewer_and_fewer_are_checked() -> None:
    call = sampled_checks.jaxtyped(same, typechecker=beartype.beartype)
    sampled = [1, 2, 3, *range(10, 101, 10), 200]
    assert checked(lambda: call(7), 200) == sampled
    sampled_checks.start_test("the next test")
    assert checked(lambda: call(7), 200) == sampled


def test_the_first_definition_in_a_function_and_a_sample_of_the_next_are_checked() -> None:
    assert checked(lambda: defined()(3), 200) == [1, *range(10, 101, 10), 200]
    sampled_checks.start_test("the next test")
    assert checked(lambda: defined()(3), 9) == [1]
    tenth = defined()
    assert checked(lambda: tenth(3), 4) == [1, 2, 3]
