"""Versions: that of the library, and that of a file's format."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from functools import cache
from typing import Any

from sparsedict.storage._json import StorageError


class NewerVersionError(StorageError):
    """A file was written by a later version of the library."""


@cache
def installed_version() -> str:
    """Returns the installed version of this library."""
    try:
        return importlib.metadata.version("sparsedict")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def format_version(document: Mapping[str, Any], newest: int, source: str) -> int:
    """Returns the ``format_version`` of a parsed document.

    Args:
        document: The parsed JSON.
        newest: Newest version that can be read.
        source: Name of the document, for error messages.

    Raises:
        StorageError: If it isn't a positive integer.
        NewerVersionError: If it is newer than ``newest``.
    """
    version = document.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise StorageError(f"{source}: `format_version` must be a positive integer, got {version!r:.80}.")
    if version > newest:
        writer = document.get("library_version")
        written = "" if writer is None else f", written by sparsedict {str(writer)[:40]}"
        raise NewerVersionError(
            f"{source} has format version {version}{written}; this is sparsedict {installed_version()}, which reads "
            f"versions up to {newest}. Upgrade sparsedict."
        )
    return version
