"""Run-time checks of types and shapes for a sample of the calls.

With all calls checked, training takes five times as long as without checks, and most of a test suite's time is spent
on the same calls from the same lines. So each test function checks the first calls of each function, then one call in
`EVERY`, and after the first `EVERY` squared calls one in `EVERY` squared. Parameter sets of one test function count as
one test, because they repeat its calls. Of functions that are defined in functions, the first definition and a sample
of the next are checked.
``pytest --check-every-call`` checks all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import update_wrapper, wraps
from inspect import isgeneratorfunction
from types import CodeType, FunctionType
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype.roar import BeartypeCallHintViolation

FIRST = 3
"""Number of calls of each function that each test function checks."""
EVERY = 10
"""One in this number of the next calls is checked."""

_jaxtyped = jaxtyping.jaxtyped


class _Test:
    """The test function that runs."""

    name = ""
    every_call = False


class _Sample:
    """Counts the calls, or the definitions, of a function."""

    def __init__(self) -> None:
        self.test, self.n = "", 0

    def takes_next(self, first: int) -> bool:
        """Returns whether the next one is checked.

        Args:
            first: Number of checked ones at the start of each test function.
        """
        if self.test != _Test.name:
            self.test, self.n = _Test.name, 0
        self.n += 1
        step = EVERY if self.n <= EVERY**2 else EVERY**2
        return self.n <= first or self.n % step == 0 or _Test.every_call


_definitions: defaultdict[CodeType, _Sample] = defaultdict(_Sample)


def start_test(name: str) -> None:
    """Counts calls from zero if the test belongs to another test function than the last one.

    Args:
        name: The test function, without its parameters.
    """
    _Test.name = name


def check_every_call() -> None:
    """Checks all calls from now on."""
    _Test.every_call = True


def _sampled(plain: Callable[..., Any], typechecker: Callable[[Any], Any]) -> Callable[..., Any]:
    """Returns a function that makes and calls the checked function for the sample, and calls ``plain`` otherwise."""
    takes_next = _Sample().takes_next
    checked: Callable[..., Any] | None = None

    @wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if not takes_next(FIRST) or jaxtyping.config.jaxtyping_disable:
            return plain(*args, **kwargs)
        if checked is None:
            checked = _checked(plain, typechecker)
        try:
            return checked(*args, **kwargs)
        except BeartypeCallHintViolation as error:  # no `TypeError`, which users and tests expect
            raise jaxtyping.TypeCheckError(str(error)) from error

    return call


def _checked(plain: Any, typechecker: Callable[[Any], Any]) -> Callable[..., Any]:
    """Returns the function with checks of its arguments and of its result.

    `jaxtyping.jaxtyped` makes one function that checks the arguments, and one that checks the arguments again with the
    result. The type checker alone makes one for both. Only annotations with shapes need jaxtyping around it.
    """
    hints = {name: _hint(annotation, plain.__globals__) for name, annotation in plain.__annotations__.items()}
    shaped = any(map(_has_shape, hints.values()))
    if shaped and isgeneratorfunction(plain):
        return _jaxtyped(plain, typechecker=typechecker)
    annotated: Any = FunctionType(
        plain.__code__, plain.__globals__, plain.__name__, plain.__defaults__, plain.__closure__
    )
    update_wrapper(annotated, plain)
    del annotated.__wrapped__
    annotated.__kwdefaults__ = plain.__kwdefaults__
    annotated.__annotations__ = hints
    checked = typechecker(annotated)
    return _jaxtyped(checked, typechecker=None) if shaped else checked


def _hint(annotation: Any, names: dict[str, Any]) -> Any:
    """Returns the type of an annotation, or ``Any`` if it names a variable of a function, as `jaxtyping.jaxtyped`."""
    holder = FunctionType(_nothing.__code__, names)
    holder.__annotations__ = {"value": annotation}
    try:
        return get_type_hints(holder, names, include_extras=True)["value"]
    except Exception:
        return Any


def _nothing() -> None: ...


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, list | tuple):
        return any(map(_has_shape, hint))
    is_array = isinstance(hint, type) and not get_args(hint) and issubclass(hint, jaxtyping.AbstractArray)
    return is_array or _has_shape(get_args(hint))


def jaxtyped(target: Any = None, *, typechecker: Any = None) -> Any:
    """Replaces `jaxtyping.jaxtyped`, which the library's import hook applies to every function and class.

    Functions are made into checked ones at their first checked call, because this takes seconds for the whole library.
    """
    if target is None:
        return lambda target: jaxtyped(target, typechecker=typechecker)
    if isinstance(target, type):
        init = vars(target).get("__init__")
        if is_dataclass(target) and isinstance(init, FunctionType) and not hasattr(init, "__wrapped__"):
            target.__init__ = _sampled(init, typechecker)
        return target
    # To make a checked function takes milliseconds, so definitions in functions are sampled too.
    if "<locals>" in target.__qualname__ and not _definitions[target.__code__].takes_next(1):
        return target
    return _sampled(target, typechecker)


def install() -> None:
    """Makes the import hook check samples. Must precede the import of the library."""
    jaxtyping.jaxtyped = jaxtyped
