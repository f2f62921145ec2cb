"""Isolates the library's computations from the caller's autocast, inference mode, default device and default dtype."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "privateuseone")
"""Device types with a separate autocast state."""

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")


class _State:
    """The current autocast and inference modes, which :meth:`apply` restores."""

    def __init__(self) -> None:
        self.inference = torch.is_inference_mode_enabled()
        self.autocast = {
            kind: torch.get_autocast_dtype(kind)
            for kind in DEVICE_TYPES
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        }

    @property
    def is_plain(self) -> bool:
        return not (self.inference or self.autocast)

    def apply(self, stack: ExitStack) -> None:
        # Leaving inference mode enables gradients, whether or not they were enabled before.
        with_gradients = torch.is_grad_enabled()
        stack.enter_context(torch.inference_mode(self.inference))
        stack.enter_context(torch.set_grad_enabled(with_gradients and not self.inference))
        for kind in {*self.autocast, *_State().autocast}:
            dtype = self.autocast.get(kind)
            stack.enter_context(torch.autocast(kind, dtype, enabled=dtype is not None))


class _Nesting(threading.local):
    """A stack with the caller's state for each :func:`own_state`, and ``None`` for each :func:`callers_state`."""

    def __init__(self) -> None:
        self.entered: list[_State | None] = []

    @property
    def callers(self) -> _State | None:
        """The caller's state; ``None`` while the caller's code runs."""
        return self.entered[-1] if self.entered else None


_NESTING = _Nesting()


@contextmanager
def own_state() -> Iterator[None]:
    """Context that disables the caller's autocast and inference mode. It leaves the gradient mode unchanged.

    Under autocast, products would be in half precision, and could use weights that were cast before the last optimiser
    step. Tensors that are created in inference mode can never be trained.
    """
    now = _State()
    with ExitStack() as stack:
        stack.enter_context(_nested(_NESTING.callers or now))
        if not now.is_plain:
            plain = _State()
            plain.inference, plain.autocast = False, {}
            plain.apply(stack)
        yield


@contextmanager
def callers_state() -> Iterator[None]:
    """Context that restores the caller's autocast and inference mode inside :func:`own_state`."""
    callers = _NESTING.callers
    with ExitStack() as stack:
        stack.enter_context(_nested(None))
        if callers is not None and not callers.is_plain:
            callers.apply(stack)
        yield


@contextmanager
def _nested(callers: _State | None) -> Iterator[None]:
    _NESTING.entered.append(callers)
    try:
        yield
    finally:
        _NESTING.entered.pop()


class InCallersState(Iterator[_T]):
    """Iterates over an iterable of the caller, and computes each item in the caller's state.

    Attributes:
        is_itself: Whether the iterable is its own iterator, so that it can be iterated only once.
    """

    def __init__(self, items: Iterable[_T]) -> None:
        with callers_state():
            self._iterator = iter(items)
        self.is_itself: bool = self._iterator is items

    def __next__(self) -> _T:
        with callers_state():
            return next(self._iterator)


def in_own_state(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorator that runs a function in :func:`own_state`. Generators would leave the state active between items."""

    @wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with own_state():
            return function(*args, **kwargs)

    return wrapped


@contextmanager
def own_defaults() -> Iterator[None]:
    """Context with float32 and the CPU as defaults, for other libraries' code without device or dtype arguments."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def without_inference_(module: nn.Module) -> None:
    """Replaces parameters and buffers created in inference mode, which can't be trained, by ordinary tensors."""
    copies: dict[int, Any] = {}
    with torch.inference_mode(False), torch.no_grad():
        for part in module.modules():
            for held in (part._parameters, part._buffers):
                for name, value in held.items():
                    if value is not None and value.is_inference():
                        held[name] = copies.setdefault(id(value), _ordinary(value))


def _ordinary(value: torch.Tensor) -> torch.Tensor:
    copy = value.detach().clone()
    return nn.Parameter(copy, value.requires_grad) if isinstance(value, nn.Parameter) else copy
