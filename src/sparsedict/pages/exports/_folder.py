"""The folder of an export."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsedict import checks
from sparsedict.storage import make_folder


def write_folder(path: str | os.PathLike[str], fill: Callable[[Path], None]) -> Path:
    """Writes the folder of an export atomically: there is either no folder or the complete one.

    Args:
        path: A new or empty folder.
        fill: Function that writes the files into a folder.

    Raises:
        FileExistsError: If there is a file, or a folder that isn't empty.
    """
    folder = checks.path("folder", path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"`folder` must be a new or empty folder, but {folder} holds something. Choose another.")
    if folder.exists():
        folder.rmdir()
    folder.parent.mkdir(parents=True, exist_ok=True)
    make_folder(folder, fill)
    return folder


def write_json(file: Path, content: Any) -> None:
    """Writes a JSON file without spaces."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    file.write_text(text, encoding="utf-8", newline="\n")
