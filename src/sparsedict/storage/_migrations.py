"""Migrations of the JSON description from older format versions.

Each step converts a document to the next version, and a file passes through all later steps. A step isn't changed after
the release of its version. The tests contain folders that each version wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Document = dict[str, Any]


def _parts_by_role(document: Document) -> Document:
    """Version 1 had two parts as separate keys, so no kind could have a third part."""
    roles = ("activation", "decoder_norm")
    parts = {role: document[role] for role in roles if role in document}
    return {key: value for key, value in document.items() if key not in roles} | {"parts": parts}


STEPS: dict[int, Callable[[Document], Document]] = {1: _parts_by_role}
"""The step from each version to the next."""


def migrated(document: Document, version: int) -> Document:
    """Converts a document of ``version`` to the current version."""
    while version in STEPS:
        document = STEPS[version](document)
        version += 1
    return document
