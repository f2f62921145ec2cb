"""Folders with earlier pages, which new pages may replace."""

from __future__ import annotations

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
    """
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
