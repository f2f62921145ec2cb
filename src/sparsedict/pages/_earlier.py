"""Folders with earlier pages, which new pages may replace."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini")
"""Files that file managers create."""


def has_earlier(folder: Path, marker: str, ours: Collection[str], name: str) -> bool:
    """Returns whether a folder has earlier pages and nothing else, so that they may be replaced.

    Args:
        folder: The folder, which needn't exist.
        marker: Path of a file in every folder of these pages.
        ours: Names that these pages have in the folder.
        name: Name of the pages, for the message.

    Raises:
        FileExistsError: If it is a file, or contains other files.
        NotADirectoryError: If it can't be created because one of its parents is a file.
        PermissionError: If it isn't writable.
    """
    _check_writable(folder)
    if not folder.exists() and not folder.is_symlink():
        return False
    found = sorted(item.name for item in folder.iterdir() if item.name not in SYSTEM) if folder.is_dir() else []
    others = [item for item in found if item not in ours]
    if folder.is_dir() and not found:
        return False
    if folder.is_dir() and not others and (folder / marker).is_file():
        return True
    why = f"contains {others[0]!r}" if others else "isn't"
    raise FileExistsError(
        f"`path` must be a new or empty folder, or one with an earlier {name} and nothing else, but {folder} {why}."
    )


def _check_writable(folder: Path) -> None:
    """Checks the nearest parent that exists, so that the error doesn't come after the work."""
    # New pages are written beside the folder, and then renamed.
    parent = next(place for place in folder.absolute().parents if os.path.lexists(place))
    if not parent.is_dir():
        raise NotADirectoryError(f"`path` must be a folder that can be created, but {parent} isn't a folder.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"`path` must be in a writable folder, but {parent} isn't writable.")
