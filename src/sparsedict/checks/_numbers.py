"""Validators of numbers and booleans."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
from torch import Tensor


def at_least(name: str, value: Any, minimum: int) -> int:
    """Returns ``value`` as an ``int`` if it is an integer of at least ``minimum``.

    Any object with ``__index__`` is an integer, such as NumPy integers and tensors without dimensions. Booleans aren't.
    """
    number = _scalar(value)
    if isinstance(number, bool) or not isinstance(number, SupportsIndex) or _is_array(number):
        raise TypeError(f"`{name}` must be an integer, got {value!r} of type {type(value).__name__}.")
    number = operator.index(number)
    if number < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {number}.")
    return number


def index(name: str, value: Any, n: int) -> int:
    """Returns ``value`` as an ``int`` if it is an index of one of ``n`` items, counted from 0."""
    found = at_least(name, value, 0)
    if found >= n:
        raise ValueError(f"`{name}` must lie in [0, {n}), got {found}.")
    return found


def interval(name: str, value: Any, unit: str) -> int | timedelta:
    """Returns an interval if it is positive: a number of steps or tokens, or a time.

    Args:
        name: Name of the argument.
        value: The interval.
        unit: Unit of a number, such as ``"steps"``, for the message.
    """
    if not isinstance(value, timedelta):
        return at_least(name, value, 1)
    if value <= timedelta(0):
        raise ValueError(f"`{name}` must be a number of {unit} or a positive timedelta, got {value!r}.")
    return value


def integers(name: str, values: Any, minimum: int, what: str) -> tuple[int, ...]:
    """Returns the integers of a list, an array or any other iterable, each at least ``minimum``, and at least one.

    Args:
        name: Name of the argument.
        values: The integers.
        minimum: Smallest valid integer.
        what: What the argument must be, for the message.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) != 1:
        raise TypeError(f"`{name}` must be {what}, got {values!r:.80}.")
    found = tuple(at_least(f"{name}[{index}]", value, minimum) for index, value in enumerate(values))
    if not found:
        raise ValueError(f"`{name}` must be {what}, got none.")
    return found


def pair(name: str, value: Any, minimum: int) -> tuple[int, int]:
    """Returns a pair of integers of at least ``minimum``. One integer stands for both."""
    both = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2:
        raise ValueError(f"`{name}` must be one integer or a tuple of two, got {value!r:.80}.")
    return at_least(name, both[0], minimum), at_least(name, both[1], minimum)


def number(name: str, value: Any) -> float:
    """Returns ``value`` as a ``float``, or as an ``int`` if it is an integer.

    Any object with ``__float__`` is a number, such as NumPy numbers and tensors without dimensions. Booleans aren't.
    """
    plain = _scalar(value)
    if not isinstance(plain, bool) and not _is_array(plain):
        if isinstance(plain, SupportsIndex):
            return operator.index(plain)
        if isinstance(plain, SupportsFloat):
            return float(plain)
    raise TypeError(f"`{name}` must be a number, got {value!r} of type {type(value).__name__}.")


def in_range(name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False) -> float:
    """Returns ``value`` as a plain number if it is finite, in ``[low, high]`` (``(low, high]`` with ``open_low``)."""
    plain = number(name, value)
    inside = (plain > low if open_low else plain >= low) and plain <= high
    if not (inside and math.isfinite(plain)):
        left = f"({low}" if open_low else f"[{low}"
        right = ", inf)" if high == math.inf else f", {high}]"
        where = "be finite" if low == -math.inf and high == math.inf else f"lie in {left}{right}"
        raise ValueError(f"`{name}` must {where}, got {plain}.")
    return plain


def boolean(name: str, value: Any) -> bool:
    """Returns ``value`` as a ``bool`` if it is one, also one of NumPy or a tensor without dimensions.

    Other values, such as ``"no"``, would otherwise count as true.
    """
    plain = _scalar(value)
    if not isinstance(plain, bool):
        raise TypeError(f"`{name}` must be True or False, got {value!r} of type {type(value).__name__}.")
    return plain


def set_boolean(part: object, name: str) -> None:
    """Checks an attribute of a frozen dataclass by :func:`boolean`, and converts it to ``bool`` for JSON."""
    object.__setattr__(part, name, boolean(name, getattr(part, name)))


def set_at_least(part: object, name: str, minimum: int) -> None:
    """Checks an attribute of a frozen dataclass by :func:`at_least`, and converts it to ``int`` for JSON."""
    object.__setattr__(part, name, at_least(name, getattr(part, name), minimum))


def set_in_range(part: object, name: str, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    """Checks an attribute of a frozen dataclass by :func:`in_range`, and converts it to a plain number."""
    object.__setattr__(part, name, in_range(name, getattr(part, name), low, high, open_low=open_low))


def _scalar(value: Any) -> Any:
    """Converts an array or a tensor without dimensions to a Python number."""
    return value.item() if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0 else value


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)
