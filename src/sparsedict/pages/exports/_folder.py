"""The folder of an export."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sparsedict import checks
from sparsedict.storage import replace_file


def new_folder(path: str | os.PathLike[str]) -> Path:
    """Creates the folder of an export.

    Raises:
        FileExistsError: If there is a file, or a folder that isn't empty.
    """
    folder = checks.path("folder", path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"`folder` must be a new or empty folder, but {folder} holds something. Choose another.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_json(file: Path, content: Any) -> None:
    """Writes JSON atomically."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    replace_file(file, lambda beside: _write(beside, text))


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")
