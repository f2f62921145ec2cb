"""Holds attention patterns and the denominators of norms at their values in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sparsedict.circuits._functions import HANDLERS

PATTERNS = ("softmax", "scaled_dot_product_attention")
"""Names of the functions that compute attention patterns. The other held functions compute denominators of norms."""
Held = Literal["attention", "norms"]
"""Attention patterns, or the denominators of norms."""


class HeldValues(TorchFunctionMode):
    """A context in which attention patterns and the denominators of norms are constants.

    The first forward pass computes and records them. Later passes use the recorded values in the same order, for
    any inputs. Gradients don't flow through held values in either case.
    """

    def __init__(self) -> None:
        super().__init__()
        self._values: list[_Value] = []
        self._n_used = 0
        self._recording = True
        self._suspended = False
        self._kinds: frozenset[Held] = frozenset()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def largest(self) -> int:
        """Number of bytes of the largest held value."""
        return max((own.value.numel() * own.value.element_size() for own in self._values), default=0)

    def start(self, *, record: bool, kinds: Collection[Held] = ("attention", "norms")) -> None:
        """Begins a forward pass.

        Args:
            record: Whether to record values instead of using recorded ones.
            kinds: Which recorded values are used. The model computes the others.
        """
        self._recording, self._n_used, self._kinds = record, 0, frozenset(kinds)
        if record:
            self._values.clear()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Context in which no function is intercepted."""
        before, self._suspended = self._suspended, True
        try:
            yield
        finally:
            self._suspended = before

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._suspended:
            return func(*args, **kwargs)
        handler = HANDLERS.get(func)
        if handler is not None:
            name = getattr(func, "__name__", str(func))
            return handler(lambda make, given: self._hold(name, make, given), *args, **kwargs)
        opened = _opened(func)
        if opened is None:
            return func(*args, **kwargs)
        with self:
            return opened(*args, **kwargs)

    @torch.no_grad()
    def _hold(self, name: str, make: Callable[[], Tensor], given: Tensor) -> Tensor:
        n_rows = given.shape[0] if given.ndim else 1
        if self._recording:
            value = make().detach()
            self._values.append(_Value(name, value, n_rows))
            return value
        if self._n_used == len(self._values):
            raise _another_pass(f"{name} was called after the {self._n_used} held functions of the recorded pass")
        held = self._values[self._n_used]
        self._n_used += 1
        n_copies, rest = divmod(n_rows, held.n_rows)
        if held.name != name or rest:
            raise _another_pass(f"{name} with {n_rows} rows was called instead of {held.name} with {held.n_rows}")
        if ("attention" if name in PATTERNS else "norms") not in self._kinds:
            return make()
        return held.value if n_copies == 1 else held.value.repeat(n_copies, *[1] * (held.value.ndim - 1))


@dataclass(frozen=True, eq=False)
class _Value:
    """A held value, the name of its function, and the size of the first dimension of the function's argument."""

    name: str
    value: Tensor
    n_rows: int


def _another_pass(why: str) -> RuntimeError:
    return RuntimeError(
        f"A forward pass with held values must call the same functions as the recorded pass, but {why}. Run the model "
        "on the same tokens, or on copies of them, inside the context."
    )


@cache
def _opened(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """Returns a copy of a function of PyTorch, written in Python, whose inner calls are intercepted.

    Such a function passes itself to the mode before it does anything. The copy doesn't. None if it isn't such a
    function.
    """
    checks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    if not isinstance(func, FunctionType) or func.__module__ not in ("torch.functional", "torch.nn.functional"):
        return None
    if not any(name in func.__code__.co_names for name in checks):
        return None
    scope = {**func.__globals__, **dict.fromkeys(checks, lambda *_: False)}
    copy = FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy
