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
from functools import wraps
from types import CodeType, FunctionType
from typing import Any

import jaxtyping

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


def _sampled(plain: Callable[..., Any], make_checked: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """Returns a function that makes and calls the checked function for the sample, and calls ``plain`` otherwise."""
    takes_next = _Sample().takes_next
    checked: Callable[..., Any] | None = None

    @wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if takes_next(FIRST):
            if checked is None:
                checked = make_checked()
            return checked(*args, **kwargs)
        return plain(*args, **kwargs)

    return call


def jaxtyped(target: Any = None, *, typechecker: Any = None) -> Any:
    """Replaces `jaxtyping.jaxtyped`, which the library's import hook applies to every function and class.

    Most functions are made into checked ones at their first call, because this takes seconds for the whole library.
    """
    if target is None:
        return lambda target: jaxtyped(target, typechecker=typechecker)
    if isinstance(target, FunctionType):
        if "<locals>" not in target.__qualname__:
            return _sampled(target, lambda: _jaxtyped(target, typechecker=typechecker))
        # Annotations of functions in functions may name variables that exist only now, so the checked function is made
        # now. That takes milliseconds at each definition, so definitions are sampled too.
        if not _definitions[target.__code__].takes_next(1):
            return target
    init = target.__init__ if isinstance(target, type) else None
    checked = _jaxtyped(target, typechecker=typechecker)
    if init is not None and checked.__init__ is not init:
        checked_init = checked.__init__
        checked.__init__ = _sampled(init, lambda: checked_init)
    elif isinstance(target, FunctionType):
        return _sampled(target, lambda: checked)
    return checked


def install() -> None:
    """Makes the import hook check samples. Must precede the import of the library."""
    jaxtyping.jaxtyped = jaxtyped
