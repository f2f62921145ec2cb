"""Checkpoints: folders with ``checkpoint.json`` and ``state.safetensors`` that are created atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsedict.storage._atomic import make_folder
from sparsedict.storage._description import installed_version
from sparsedict.storage._json import MAX_BYTES, StorageError, parse_json
from sparsedict.storage._regular_file import regular_file
from sparsedict.storage._tensor_file import read_tensor_file, write_tensor_file
from sparsedict.storage._tree import flatten, unflatten

CHECKPOINT_FORMAT = "sparsedict checkpoint"
CHECKPOINT_VERSION = 1
CHECKPOINT = "checkpoint.json"
STATE = "state.safetensors"


class NewerVersionError(StorageError):
    """A file was written by a later version of the library."""


def write_checkpoint(folder: Path, settings: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Creates the folder of a checkpoint atomically.

    Args:
        folder: The new folder. Its parent must exist.
        settings: Settings of the run, as JSON values.
        state: State of the run: dictionaries, lists and tuples of tensors and plain values.

    Raises:
        TypeError: If the state contains another type.
        ValueError: If the plain values are too large.
        OSError: If the folder can't be written, such as ``ENOSPC`` on a full disk.
    """
    plain, tensors = flatten(state, "state")
    document = {
        "format": CHECKPOINT_FORMAT,
        "format_version": CHECKPOINT_VERSION,
        "library_version": installed_version(),
        "settings": settings,
        "state": plain,
    }

    def fill(scratch: Path) -> None:
        document["tensors"] = write_tensor_file(scratch / STATE, tensors)
        encoded = f"{json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)}\n".encode()
        if len(encoded) > MAX_BYTES:
            raise ValueError(
                f"The plain values of a checkpoint must fit into {MAX_BYTES:,} bytes of JSON, got {len(encoded):,}. "
                "Store large values as tensors."
            )
        (scratch / CHECKPOINT).write_bytes(encoded)

    make_folder(folder, fill)


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the settings and the state of a checkpoint. Each tensor has its own memory, on the CPU.

    Raises:
        FileNotFoundError: If a file is missing.
        StorageError: If a file is damaged, is a link out of the folder or from a newer version, or the two files don't
            match.
    """
    document = _document(_file(folder, CHECKPOINT))
    tensors = read_tensor_file(_file(folder, STATE), document["tensors"])
    return document["settings"], unflatten(document["state"], tensors, str(folder / CHECKPOINT))


def _file(folder: Path, name: str) -> Path:
    file = regular_file(folder, name)
    if file is None:
        raise FileNotFoundError(f"{folder} isn't a complete checkpoint: {name} is missing.")
    return file


def _document(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        document = parse_json(stream.read(MAX_BYTES + 1), str(file))
    if not isinstance(document, dict) or document.get("format") != CHECKPOINT_FORMAT:
        raise StorageError(f"{file} isn't the description of a checkpoint: its `format` isn't {CHECKPOINT_FORMAT!r}.")
    version = document.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise StorageError(f"{file}: `format_version` must be a positive integer, got {version!r}.")
    if version > CHECKPOINT_VERSION:
        raise NewerVersionError(
            f"{file} has format version {version}, written by sparsedict {document.get('library_version')}; this "
            f"sparsedict reads versions up to {CHECKPOINT_VERSION}. Upgrade sparsedict to resume."
        )
    for key, kind in (("tensors", str), ("settings", dict), ("state", dict)):
        if not isinstance(document.get(key), kind):
            raise StorageError(f"{file} must have the key `{key}` with a value of type {kind.__name__}.")
    return document
