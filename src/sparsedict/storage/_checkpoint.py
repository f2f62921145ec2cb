"""A checkpoint: a folder with ``checkpoint.json`` and ``state.safetensors`` that is there as a whole or not at all."""

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
    """Writes a folder that isn't there yet; an interruption leaves no folder of that name, or the whole of it.

    Args:
        folder: Its parent must exist.
        settings: What the run is, in plain values that JSON has.
        state: Where it stands: dictionaries, lists and tuples of tensors and plain values.

    Raises:
        TypeError: If the state holds something else.
        ValueError: If there are too many plain values.
        OSError: If it can't be written, such as ``ENOSPC`` where the disk is full.
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
            raise ValueError(f"A checkpoint's plain values must fit into {MAX_BYTES:,} bytes, got {len(encoded):,}.")
        (scratch / CHECKPOINT).write_bytes(encoded)

    make_folder(folder, fill)


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the settings and the state of a checkpoint, each tensor in memory of its own, on the CPU.

    Raises:
        FileNotFoundError: If a file is missing.
        StorageError: If one is broken, doesn't belong to the other, is a link out of the folder, or is of a newer
            version.
    """
    document = _document(_file(folder, CHECKPOINT))
    tensors = read_tensor_file(_file(folder, STATE), document["tensors"])
    return document["settings"], unflatten(document["state"], tensors, str(folder / CHECKPOINT))


def _file(folder: Path, name: str) -> Path:
    file = regular_file(folder, name)
    if file is None:
        raise FileNotFoundError(f"{folder} is no whole checkpoint: {name} is missing.")
    return file


def _document(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        document = parse_json(stream.read(MAX_BYTES + 1), str(file))
    if not isinstance(document, dict) or document.get("format") != CHECKPOINT_FORMAT:
        raise StorageError(f"{file} doesn't describe a checkpoint: its `format` isn't {CHECKPOINT_FORMAT!r}.")
    version = document.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise StorageError(f"{file}: `format_version` must be a positive integer, got {version!r}.")
    if version > CHECKPOINT_VERSION:
        raise NewerVersionError(
            f"{file} has format version {version}, written by sparsedict {document.get('library_version')}; this "
            f"sparsedict reads versions up to {CHECKPOINT_VERSION}. Upgrade it to go on from there."
        )
    for key, kind in (("tensors", str), ("settings", dict), ("state", dict)):
        if not isinstance(document.get(key), kind):
            raise StorageError(f"{file} lacks the key `{key}`, or it isn't of type {kind.__name__}.")
    return document
