"""The samples of calls and definitions whose types are checked in tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import beartype
import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

import sampled_checks

if TYPE_CHECKING:
    from somewhere import Unknown  # pyright: ignore[reportMissingImports]


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
        except TypeCheckError:
            found.append(number)
    return found


@pytest.fixture
def sample(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--check-every-call"):
        pytest.skip("all calls are checked")


@pytest.mark.usefixtures("sample")
def test_the_first_calls_and_then_fewer_and_fewer_are_checked() -> None:
    call = sampled_checks.jaxtyped(same, typechecker=beartype.beartype)
    sampled = [1, 2, 3, *range(10, 101, 10), 200]
    assert checked(lambda: call(7), 200) == sampled
    sampled_checks.start_test("the next test")
    assert checked(lambda: call(7), 200) == sampled


@pytest.mark.usefixtures("sample")
def test_the_first_definition_in_a_function_and_a_sample_of_the_next_are_checked() -> None:
    assert checked(lambda: defined()(3), 200) == [1, *range(10, 101, 10), 200]
    sampled_checks.start_test("the next test")
    assert checked(lambda: defined()(3), 9) == [1]
    tenth = defined()
    assert checked(lambda: tenth(3), 4) == [1, 2, 3]


def jaxtyped(target: Any) -> Any:
    return sampled_checks.jaxtyped(target, typechecker=beartype.beartype)


def equal_rows(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"] | None = None, *, text: str = "") -> object:
    return x


def transposed(x: Float[Tensor, "n d"], result: Tensor) -> Float[Tensor, "d n"]:
    return result


def all_transposed(x: list[Float[Tensor, "n d"]]) -> int:
    return len(x)


def number(text: str, *rest: int, **named: float) -> int:
    return text  # pyright: ignore[reportReturnType]


def generated(x: Float[Tensor, "n d"], text: str) -> Iterator[Float[Tensor, "d n"]]:
    yield x


def of_unknown(value: Unknown, text: str = "") -> Unknown:
    return value


@dataclass
class Row:
    values: Float[Tensor, " n"]
    names: list[str]


X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("function", "right", "wrong"),
    [
        (equal_rows, (X, torch.zeros(2, 5)), (X, torch.zeros(3, 5))),
        (equal_rows, (X,), (X[0],)),
        (equal_rows, (X, None), (X, 3)),
        (transposed, (X, X.T), (X, X)),
        (all_transposed, ([X, X],), ([X[0]],)),
        (generated, (X, "a"), (X, 3)),
        (generated, (X, "a"), (X[0], "a")),
        (of_unknown, (3, "a"), (3, 4)),
        (Row, (X[0], ["a"]), (X, ["a"])),
        (Row, (X[0], ["a"]), (X[0], [1])),
    ],
)
def test_arguments_and_results_must_have_their_types_and_shapes(
    function: Callable[..., object], right: tuple[object, ...], wrong: tuple[object, ...]
) -> None:
    if isinstance(function, type):
        function = dataclass(type("Row", (), {"__annotations__": function.__annotations__, "__module__": __name__}))
    call = jaxtyped(function)
    call(*right)
    with pytest.raises(TypeCheckError):
        call(*wrong)


def test_results_and_arguments_of_any_number_are_checked() -> None:
    for arguments, named in ((("a",), {}), (("a", "b"), {}), (("a", 1), {"x": "b"})):
        with pytest.raises(TypeCheckError):
            jaxtyped(number)(*arguments, **named)


def test_keyword_arguments_and_their_defaults() -> None:
    assert jaxtyped(equal_rows)(X, text="a") is X
    with pytest.raises(TypeCheckError):
        jaxtyped(equal_rows)(X, text=3)


@pytest.mark.as_installed
def test_disabled_checks() -> None:
    assert jaxtyped(same)(7) == 7
    assert jaxtyped(equal_rows)(3) == 3


def test_methods_see_their_class() -> None:
    class Base:
        def double(self, text: str) -> str:
            return 2 * text

    class Other(Base):
        @jaxtyped
        def double(self, text: str) -> str:
            return super().double(text)

    assert Other().double("a") == "aa"
    with pytest.raises(TypeCheckError):
        Other().double(3)
