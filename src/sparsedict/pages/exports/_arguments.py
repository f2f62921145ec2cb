"""Checks of the arguments of exports. They run before a file is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from sparsedict.analysis import LatentRecords, TokenEffects

_NAME = re.compile(r"[^\s/\\]+")


def records_of(name: str, value: Any) -> LatentRecords:
    """Returns the records of one dictionary.

    Raises:
        TypeError: If the value has another type.
    """
    if isinstance(value, LatentRecords):
        return value
    hint = " Pass those of one dictionary." if isinstance(value, Mapping) else ""
    raise TypeError(f"`{name}` must be records, as `collect` returns them, got {type(value).__name__}.{hint}")


def records_by_key(given: Any, key: Callable[[Any], Hashable], what: str) -> dict[Any, LatentRecords]:
    """Returns the records of several dictionaries by their key.

    Args:
        given: The argument ``records``.
        key: Function that checks and converts a key.
        what: What the keys are, such as "layers".

    Raises:
        TypeError: If the argument isn't a mapping to records.
        ValueError: If there are none.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"`records` must map {what} to records, as `collect` returns them, got {type(given).__name__}.")
    if not given:
        raise ValueError(f"`records` must have the records of at least one dictionary by {what}, got none.")
    return {key(name): records_of(f"records[{name!r}]", own) for name, own in given.items()}


def by_key(name: str, given: Any, records: Mapping[Any, LatentRecords], what: str) -> dict[Any, Any]:
    """Returns an optional mapping whose keys are keys of the records.

    Raises:
        TypeError: If the argument isn't a mapping.
        ValueError: If a key is unknown.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"`{name}` must map {what} of `records` to values, or be None, got {type(given).__name__}.")
    if unknown := [key for key in given if key not in records]:
        raise ValueError(f"`{name}` must have {what} of `records`, got {unknown[0]!r}.")
    return dict(given)


def effects_of(name: str, effects: Any, records: LatentRecords) -> TokenEffects | None:
    """Returns the effects of the latents of the records.

    Raises:
        TypeError: If the value has another type.
        ValueError: If they are those of another dictionary.
    """
    if effects is None:
        return None
    if not isinstance(effects, TokenEffects):
        raise TypeError(f"`{name}` must be the result of `token_effects`, or None, got {type(effects).__name__}.")
    if len(effects.promoted) != records.n_latents:
        raise ValueError(
            f"`{name}` must be the effects of the {records.n_latents} latents of the records, got those of "
            f"{len(effects.promoted)} latents."
        )
    return effects


def identifier(name: str, value: Any) -> str:
    """Returns a name that is part of addresses and paths.

    Raises:
        TypeError: If it isn't text.
        ValueError: If it is empty, or has spaces or slashes.
    """
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be a text, got {value!r:.80} of type {type(value).__name__}.")
    if not _NAME.fullmatch(value) or value.strip(".") == "":
        raise ValueError(f"`{name}` must be a name without spaces and slashes, got {value!r}.")
    return value
