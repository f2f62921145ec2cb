"""Validators of objects, names and paths."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any

import torch
from torch import Tensor

from sparsedict.checks._numbers import boolean


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


def mapping(name: str, value: object, kind: type | UnionType, what: str, *, empty: bool = True) -> None:
    """Raises an error if ``value`` isn't a mapping whose values are instances of ``kind``.

    Args:
        name: Name of the argument.
        value: The mapping.
        kind: The class of the values, or a union of classes.
        what: What the argument must be, for the message.
        empty: Whether the mapping may be empty.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"`{name}` must be {what}, got {type(value).__name__}.")
    if not (value or empty):
        raise ValueError(f"`{name}` must be {what}, got none.")
    for key, item in value.items():
        if not isinstance(item, kind):
            raise TypeError(f"`{name}` must be {what}, got {type(item).__name__} for {key!r}.")


def items(name: str, values: object, kind: type | UnionType, what: str) -> tuple[Any, ...]:
    """Returns the items of a list or any other iterable, each an instance of ``kind``.

    Args:
        name: Name of the argument.
        values: The items. A text, a mapping and a tensor aren't lists.
        kind: The class of the items, or a union of classes.
        what: What the argument must be, for the message.
    """
    if isinstance(values, str | bytes | Mapping | Tensor) or not isinstance(values, Iterable):
        raise TypeError(f"`{name}` must be {what}, got {type(values).__name__}.")
    found = tuple(values)
    for item in found:
        if not isinstance(item, kind):
            raise TypeError(f"`{name}` must be {what}, got {type(item).__name__} among the items.")
    return found


def function(name: str, value: object, what: str) -> None:
    """Raises ``TypeError`` if ``value`` can't be called.

    Args:
        name: Name of the argument.
        value: The function.
        what: What the argument must be, for the message.
    """
    if not callable(value):
        raise TypeError(f"`{name}` must be {what}, got {type(value).__name__}.")


def one_of(name: str, value: str, options: Iterable[str]) -> str:
    """Returns ``value`` if it is one of ``options``."""
    options = tuple(options)
    # Arrays have no truth value.
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, options))}, got {value!r}.")
    return value


def path(name: str, value: str | os.PathLike[str], what: str = "a path") -> Path:
    """Returns ``value`` as a ``Path`` if it is a string or a path."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise TypeError(f"`{name}` must be {what}, as text or a pathlib.Path, got {value!r:.80}.")
    return Path(value)


def file_path(name: str, value: str | os.PathLike[str], what: str) -> Path:
    """Returns the path of a file to write.

    Args:
        name: Name of the argument.
        value: The path.
        what: Kind of the file, for the message.

    Raises:
        IsADirectoryError: If the path is a folder.
    """
    found = path(name, value)
    if found.is_dir():
        raise IsADirectoryError(f"`{name}` must be {what}, but {found} is a folder. Add the name of a file.")
    return found


def resumed(resume: object, checkpoint: object) -> bool:
    """Returns ``resume`` if it is a boolean, and there is a folder to resume from where it is True."""
    found = boolean("resume", resume)
    if found and checkpoint is None:
        raise ValueError("`checkpoint` must be the folder of the run to resume if `resume` is True, got None.")
    return found


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
