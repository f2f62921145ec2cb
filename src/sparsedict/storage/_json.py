"""Reads JSON from untrusted files, with limits on size, depth and numbers. Every error names the file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MAX_BYTES = 4 * 2**20
"""Largest size of JSON that is written or read, in bytes."""

MAX_NESTED = 64
MAX_DIGITS = 100
"""Largest number of digits of an integer, since Python's conversion takes quadratic time."""

LONGEST_FLOAT = 400
LONGEST_MESSAGE = 1000


class StorageError(ValueError):
    """A file is damaged, or can't be read by this version."""

    def __init__(self, message: str) -> None:
        # Messages quote the file, whose content may be of any length.
        super().__init__(message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}...")


def read_json(file: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Reads a JSON file of at most ``max_bytes`` bytes (4 MiB by default).

    Raises:
        StorageError: If the file is larger, isn't JSON, is nested too deeply, or contains NaN, numbers beyond the
            limits or a key twice.
    """
    with file.open("rb") as stream:
        encoded = stream.read(max_bytes + 1)
    return parse_json(encoded, str(file), max_bytes)


def parse_json(encoded: bytes, source: str, max_bytes: int = MAX_BYTES) -> Any:
    """Parses JSON that was read from ``source``, like `read_json`."""
    if len(encoded) > max_bytes:
        raise StorageError(
            f"{source} must have at most {max_bytes:,} bytes, the limit for a description, got more. Check the file."
        )
    try:
        document = json.loads(
            encoded, parse_constant=_constant, parse_int=_integer, parse_float=_float, object_pairs_hook=_unique
        )
        _check_depth(document)
        # A lone surrogate can be neither printed nor written again.
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise StorageError(f"{source} isn't valid JSON: {reason[:200]}.") from None
    return document


def _constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer has {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    if len(text) > LONGEST_FLOAT or not math.isfinite(float(text)):
        raise ValueError(f"the number {text[:40]} is longer or larger than any float")
    return float(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("an object has one key twice")
    return dict(pairs)


def _check_depth(document: object) -> None:
    level: list[object] = [document]
    for _ in range(MAX_NESTED):
        level = [item for value in level for item in _items(value)]
        if not level:
            return
    raise ValueError(f"nested too deeply, over {MAX_NESTED} levels")


def _items(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


class Reader:
    """Reads the keys of a JSON object, with checks.

    Args:
        document: The object.
        source: Name of the file, for error messages.
    """

    def __init__(self, document: dict[str, Any], source: str) -> None:
        self._document = document
        self._taken: set[str] = set()
        self.source = source

    def __iter__(self) -> Iterator[str]:
        return iter(self._document)

    def value(self, key: str) -> Any:
        """Returns the value of a key, of any type."""
        if key not in self._document:
            raise StorageError(f"{self.source} lacks the key `{key}`.")
        self._taken.add(key)
        return self._document[key]

    def text(self, key: str) -> str:
        return self._of(key, str, "a string")

    def integer(self, key: str) -> int:
        return self._of(key, int, "an integer")

    def number_or_null(self, key: str) -> float | None:
        value = self.value(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise StorageError(f"{self.source}: `{key[:80]}` must be a number or null, got {str(value)[:80]!r}.")
        return value

    def inner(self, key: str) -> Reader:
        """Returns a reader of a nested object."""
        return Reader(self._of(key, dict, "an object"), f"{self.source}, `{key[:80]}`")

    def mapping(self, key: str) -> dict[str, Any]:
        return self._of(key, dict, "an object")

    def rows(self, key: str) -> list[Any]:
        return self._of(key, list, "an array")

    def _of(self, key: str, kind: type, what: str) -> Any:
        value = self.value(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise StorageError(f"{self.source}: `{key[:80]}` must be {what}, got {str(value)[:80]!r}.")
        return value

    def finish(self) -> None:
        """Raises `StorageError` if there are keys that weren't read."""
        extra = sorted(set(self._document) - self._taken)
        if extra:
            raise StorageError(f"{self.source} has unexpected keys: {', '.join(repr(key[:80]) for key in extra[:8])}.")
