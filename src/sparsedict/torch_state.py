"""The thread's PyTorch state: what the caller has set for its own code must not change what the library computes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "privateuseone")
"""Device types that have an autocast state of their own."""

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")


class _State:
    """Autocast and inference mode as they are now; entered again by :meth:`apply`."""

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
        # Leaving inference mode turns gradients on, whatever they were before.
        with_gradients = torch.is_grad_enabled()
        stack.enter_context(torch.inference_mode(self.inference))
        stack.enter_context(torch.set_grad_enabled(with_gradients and not self.inference))
        for kind in {*self.autocast, *_State().autocast}:
            dtype = self.autocast.get(kind)
            stack.enter_context(torch.autocast(kind, dtype, enabled=dtype is not None))


class _Nesting(threading.local):
    """For each :func:`own_state` the state that its caller had, for each :func:`callers_state` nothing."""

    def __init__(self) -> None:
        self.entered: list[_State | None] = []

    @property
    def callers(self) -> _State | None:
        """The caller's state; ``None`` where the caller's own code runs."""
        return self.entered[-1] if self.entered else None


_NESTING = _Nesting()


@contextmanager
def own_state() -> Iterator[None]:
    """Turns off the caller's autocast and inference mode within it; gradients stay on or off.

    Under autocast, products would be computed in half precision, with casted weights from before the last optimiser
    step. In inference mode, tensors would be made that can never be trained.
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
    """Puts autocast and inference mode back, within :func:`own_state`, for code of the caller's such as its data."""
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
    """Goes through an iterable of the caller's, each item made in the caller's state.

    Attributes:
        is_itself: Whether the iterable is its own iterator, which can be gone through once.
    """

    def __init__(self, items: Iterable[_T]) -> None:
        with callers_state():
            self._iterator = iter(items)
        self.is_itself: bool = self._iterator is items

    def __next__(self) -> _T:
        with callers_state():
            return next(self._iterator)


def in_own_state(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Makes a function run in :func:`own_state`. Not for generators, which would keep it between their items."""

    @wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with own_state():
            return function(*args, **kwargs)

    return wrapped


@contextmanager
def own_defaults() -> Iterator[None]:
    """Makes new tensors float32 on the CPU, for code of another library that takes neither device nor type."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def without_inference_(module: nn.Module) -> None:
    """Replaces parameters and buffers that were made in inference mode, which can't be trained, by ordinary ones."""
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
