"""Reading of a vocabulary file."""

from __future__ import annotations

import json
from pathlib import Path


def vocabulary(path: Path) -> list[str]:
    """Reads the strings of tokens from a JSON list, ordered by id, or from a JSON object of ids by string.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file contains neither.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--vocabulary must be a JSON file, but there is no file {str(path)!r}.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--vocabulary must be a JSON file, but {str(path)!r} isn't: {error}") from error
    if isinstance(found, dict) and all(isinstance(index, int) for index in found.values()):
        by_id = {index: token for token, index in found.items()}
        return [by_id.get(index, f"[{index}]") for index in range(max(by_id, default=-1) + 1)]
    if isinstance(found, list) and all(isinstance(token, str) for token in found):
        return found
    raise ValueError(
        f"--vocabulary must be a JSON list of strings or an object of ids by string, got {type(found).__name__} "
        f"in {str(path)!r}."
    )
