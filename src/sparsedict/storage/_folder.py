"""Writes and reads the two files of a saved dictionary."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sparsedict.storage._atomic import replace_file, sync_folder
from sparsedict.storage._description import Description
from sparsedict.storage._json import MAX_BYTES
from sparsedict.storage._regular_file import regular_file
from sparsedict.storage._weights import WEIGHTS, digest_of, own_memory, write_tensors

DESCRIPTION = "dictionary.json"

_LEFT_BEHIND = re.compile(rf"\.?{re.escape(WEIGHTS)}\.[0-9a-f]{{64}}(\.writing)?")


def write_dictionary(folder: Path, description: Description, weights: Mapping[str, Tensor]) -> None:
    """Writes both files atomically: after an interruption, there is either the old pair or the new one.

    Args:
        folder: The folder. It is created if necessary, and a dictionary in it is replaced.
        description: Description of the dictionary.
        weights: Weights by name, as in ``Dictionary.state_dict()``.

    Raises:
        NotADirectoryError: If the path is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"`path` must be a folder, but {folder} is a file.")
    tensors = own_memory(weights)
    digest = digest_of(tensors)
    encoded = description.to_json(digest)
    folder.mkdir(parents=True, exist_ok=True)
    pending = folder / f"{WEIGHTS}.{digest}"
    replace_file(pending, lambda file: write_tensors(file, tensors, digest))
    replace_file(folder / DESCRIPTION, lambda file: _write_bytes(file, encoded))
    pending.replace(folder / WEIGHTS)
    sync_folder(folder)
    # Files of earlier saves that were interrupted.
    for file in folder.iterdir():
        if _LEFT_BEHIND.fullmatch(file.name):
            shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)


def read_description(folder: Path) -> tuple[Description, str]:
    """Reads the description of a saved dictionary, and the digest of its weights.

    Raises:
        FileNotFoundError: If there is no such folder, or no dictionary in it.
        StorageError: If the JSON is damaged, too large or from a newer version.
    """
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "doesn't exist"
        raise FileNotFoundError(f"`path` must be the folder of a saved dictionary, but {folder} {state}.")
    file = regular_file(folder, DESCRIPTION)
    if file is None:
        raise FileNotFoundError(f"{folder} contains no saved dictionary: {DESCRIPTION} is missing.")
    with file.open("rb") as stream:
        encoded = stream.read(MAX_BYTES + 1)
    return Description.from_json(encoded, str(file))


def _write_bytes(file: Path, content: bytes) -> None:
    file.write_bytes(content)
