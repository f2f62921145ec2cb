"""JSON documents that name their format and its version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsedict.storage._atomic import replace_file
from sparsedict.storage._json import Reader, StorageError, read_json
from sparsedict.storage._version import NewerVersionError

MAX_DOCUMENT = 64 * 2**20
"""Largest size of a document, in bytes."""


def read_document(file: Path, form: str, version: int = 1) -> Reader:
    """Returns a reader of a document after its format and version.

    Args:
        file: The file.
        form: Name of the format.
        version: Newest version that can be read.

    Raises:
        FileNotFoundError: If the file doesn't exist.
        StorageError: If the file isn't JSON, or has another format.
        NewerVersionError: If the file has a newer version.
    """
    return parse_document(read_json(file, MAX_DOCUMENT), form, str(file), version)


def parse_document(value: Any, form: str, source: str, version: int = 1) -> Reader:
    """Returns a reader of a parsed document, like `read_document`.

    Args:
        value: The parsed JSON.
        form: Name of the format.
        source: Name of the document, for error messages.
        version: Newest version that can be read.
    """
    if not isinstance(value, dict) or value.get("format") != form:
        found = value.get("format") if isinstance(value, dict) else type(value).__name__
        raise StorageError(f"{source} must be a JSON object with `format` {form!r}, got {found!r:.80}.")
    reader = Reader(value, source)
    reader.text("format")
    found = reader.integer("version")
    if found > version:
        raise NewerVersionError(
            f"{source} has version {found} of its format, and this version of sparsedict reads up to {version}. "
            "Update sparsedict."
        )
    if found < 1:
        raise StorageError(f"{source}: `version` must be at least 1, got {found}.")
    return reader


def write_document(
    file: Path, form: str, content: Mapping[str, Any], version: int = 1, *, indent: int | None = 1
) -> None:
    """Writes a document atomically, with its format and version."""
    text = json.dumps({"format": form, "version": version, **content}, indent=indent, allow_nan=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda beside: _write(beside, f"{text}\n"))


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")
