"""The header of JSON files of ratings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsedict.storage import NewerVersionError, Reader, StorageError, replace_file

VERSION = 1
MAX_FILE = 64 * 2**20
"""Largest size of a file, in bytes."""


def document(value: object, form: str, source: str) -> Reader:
    """Returns a reader of a document after its format and version.

    Raises:
        StorageError: If the document has another format.
        NewerVersionError: If the document has a newer version.
    """
    if not isinstance(value, dict) or value.get("format") != form:
        found = value.get("format") if isinstance(value, dict) else type(value).__name__
        raise StorageError(f"{source} must be a JSON object with `format` {form!r}, got {found!r:.80}.")
    reader = Reader(value, source)
    reader.text("format")
    version = reader.integer("version")
    if version > VERSION:
        raise NewerVersionError(
            f"{source} has version {version} of its format, and this version of sparsedict reads up to {VERSION}. "
            "Update sparsedict."
        )
    if version < 1:
        raise StorageError(f"{source}: `version` must be at least 1, got {version}.")
    return reader


def number_or_null(reader: Reader, key: str) -> float | None:
    """Returns the value of a key that must be a number or null."""
    value = reader.value(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise StorageError(f"{reader.source}: `{key}` must be a number or null, got {value!r:.80}.")
    return value


def write_document(path: Path, form: str, content: Mapping[str, Any]) -> None:
    """Writes a document atomically, with its format and version."""
    text = json.dumps({"format": form, "version": VERSION, **content}, indent=1, allow_nan=False, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda file: _write(file, f"{text}\n"))


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")
