"""Validators of arguments. Errors name the argument, the requirement and the value."""

from __future__ import annotations

import math
import operator
import os
import sys
import warnings
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from types import UnionType
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
import torch
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


def path(name: str, value: str | os.PathLike[str], what: str = "a path") -> Path:
    """Returns ``value`` as a ``Path`` if it is a string or a path."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise TypeError(f"`{name}` must be {what}, as text or a pathlib.Path, got {value!r:.80}.")
    return Path(value)


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
        raise ValueError(f"`{name}` must lie in {left}{right}, got {plain}.")
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


def renamed(part: object, name: str, former: str, value: Any) -> None:
    """Sets an attribute of a frozen dataclass from an argument's former name, with a warning."""
    if value is not None:
        warn(f"`{former}` was renamed to `{name}`. The former name will be removed.", FutureWarning)
        object.__setattr__(part, name, value)


INTERNAL = {"sparsedict", "torch", "contextlib", "functools", "jaxtyping", "beartype"}
"""Packages whose frames lie between a warning and the code of the user."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Gives a warning that points at the user's line: the innermost frame outside of the library."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in INTERNAL:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _scalar(value: Any) -> Any:
    """Converts an array or a tensor without dimensions to a Python number."""
    return value.item() if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0 else value


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def instance(name: str, value: object, kind: type | UnionType, what: str) -> None:
    """Raises ``TypeError`` if ``value`` isn't an instance of ``kind``.

    Args:
        name: Name of the argument.
        value: The object.
        kind: The class, or a union of classes.
        what: What the argument must be, for the message.
    """
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` must be {what}, got {type(value).__name__}.")


def one_of(name: str, value: str, options: Iterable[str]) -> str:
    """Returns ``value`` if it is one of ``options``."""
    options = tuple(options)
    # Arrays have no truth value.
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, options))}, got {value!r}.")
    return value


def activations(name: str, value: Tensor, width: int) -> Tensor:
    """Returns ``value`` if it is a floating-point tensor whose last dimension is ``width``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"`{name}` must be a tensor of activations [..., {width}], got {type(value).__name__}.")
    if not value.is_floating_point():
        raise TypeError(
            f"`{name}` must contain floating-point activations [..., {width}], got a tensor of {value.dtype}. "
            "Pass tokens to `Site.capture` or `ActivationStream`, which turn them into activations."
        )
    dense(name, value)
    if value.ndim == 0 or value.shape[-1] != width:
        raise ValueError(f"The last dimension of `{name}` must be {width}, got shape {tuple(value.shape)}.")
    return value


def rows(inputs: Tensor, targets: Tensor, d_in: int, d_out: int) -> None:
    """Raises an error if inputs ``[n_tokens, d_in]`` and targets ``[n_tokens, d_out]`` aren't those of the same tokens.

    Raises:
        TypeError: If one of them isn't a floating-point tensor.
        ValueError: If their widths aren't ``d_in`` and ``d_out``, their numbers of tokens differ, or they are empty.
    """
    activations("inputs", inputs, d_in)
    activations("targets", targets, d_out)
    if inputs.ndim != 2 or targets.shape[:-1] != inputs.shape[:-1] or not len(inputs):
        raise ValueError(
            "`inputs` and `targets` must be rows of the same tokens, at least one, "
            f"got shapes {tuple(inputs.shape)} and {tuple(targets.shape)}."
        )


def same_shape(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Raises ``ValueError`` if two tensors differ in shape, as they would otherwise broadcast silently."""
    if a.shape != b.shape:
        raise ValueError(
            f"`{name_a}` and `{name_b}` must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}."
        )


def latent_vector(name: str, value: Tensor, n_latents: int) -> Tensor:
    """Returns ``value`` if it is a tensor ``[n_latents]``."""
    if not isinstance(value, Tensor) or tuple(value.shape) != (n_latents,):
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"`{name}` must be a tensor of shape ({n_latents},), one entry for each latent, got {shape}.")
    return value


def part(name: str, value: object, kind: type, example: str) -> None:
    """Raises ``TypeError`` if ``value`` isn't an instance of a kind of part, such as an activation.

    Args:
        name: Name of the argument.
        value: The value.
        kind: The class.
        example: Source code of a valid value, for the message.
    """
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(
            f"`{name}` must be {article} {kind.__name__} such as `{example}`, got {value!r}{instance_hint(value)}."
        )


def instance_hint(value: object) -> str:
    """Returns a remedy for a class that was passed instead of an object, for the end of a message."""
    return " (pass an instance, not the class)" if isinstance(value, type) else ""


def unwrapped(value: object) -> str:
    """Returns how to reach the module in a wrapper of PyTorch, as a sentence. The text is empty for other objects."""
    for attribute in ("_orig_mod", "module"):
        inner = getattr(value, attribute, None)
        if isinstance(inner, torch.nn.Module):
            return f" Pass the {type(inner).__name__} in it, which is its attribute `{attribute}`."
    return ""


def from_numpy(array: np.ndarray) -> Tensor:
    """Returns an array as a tensor. The tensor shares the array's memory if PyTorch can read the array as it is.

    Otherwise it is a copy: of an array in the other byte order, with negative strides, or with gaps inside of items.
    """
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        # The library doesn't write to data, so that read-only memory maps needn't be copied.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def dense(name: str, value: Tensor) -> Tensor:
    """Returns ``value`` if it is an ordinary dense tensor of a type that PyTorch computes in."""
    if value.is_nested or value.layout != torch.strided:
        kind, remedy = ("nested", "to_padded_tensor(0.0)") if value.is_nested else (value.layout, "to_dense()")
        raise TypeError(f"`{name}` must be a dense tensor, got a tensor of layout {kind}. Convert it with `.{remedy}`.")
    if value.is_floating_point() and value.element_size() == 1:
        raise TypeError(
            f"`{name}` must have a type that PyTorch computes in, such as float32 or bfloat16, got {value.dtype}. "
            "Convert it with `.float()`."
        )
    return value


def finite(name: str, value: Tensor, remedy: str) -> Tensor:
    """Returns ``value`` if every entry is finite. Synchronises with the device: don't use it in the training loop."""
    if not bool(torch.isfinite(value).all()):
        n_bad = int((~torch.isfinite(value)).sum())
        raise ValueError(f"`{name}` must be finite, got {n_bad} NaN or infinite entries of {value.numel()}. {remedy}")
    return value
