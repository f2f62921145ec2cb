"""What older versions of the JSON said, as the present version says it.

Each entry takes a document of one version to the next; a file goes through all that lie between. An entry is never
changed once its version has been released: a folder that a version wrote is kept in the tests and read from there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Document = dict[str, Any]


def _parts_by_role(document: Document) -> Document:
    """Version 1 knew of two parts, each a key of its own, so no kind could have a third."""
    roles = ("activation", "decoder_norm")
    parts = {role: document[role] for role in roles if role in document}
    return {key: value for key, value in document.items() if key not in roles} | {"parts": parts}


STEPS: dict[int, Callable[[Document], Document]] = {1: _parts_by_role}
"""What takes a document of a version to the one after."""


def migrated(document: Document, version: int) -> Document:
    """Returns a document of ``version`` as the present version would have written it."""
    while version in STEPS:
        document = STEPS[version](document)
        version += 1
    return document
