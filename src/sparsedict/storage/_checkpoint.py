"""Checkpoints: folders with ``checkpoint.json`` and ``state.safetensors`` that are created atomically.

If several processes divide the latents, the subfolder ``rows`` has the rows of each.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsedict.storage._atomic import make_folder
from sparsedict.storage._json import MAX_BYTES, StorageError, parse_json
from sparsedict.storage._regular_file import regular_file
from sparsedict.storage._tensor_file import read_tensor_file, write_tensor_file
from sparsedict.storage._version import format_version, installed_version

CHECKPOINT_FORMAT = "sparsedict checkpoint"
CHECKPOINT_VERSION = 1
CHECKPOINT = "checkpoint.json"
STATE = "state.safetensors"
ROWS = "rows"
"""Folder with the rows that several processes wrote."""

_TENSOR, _TUPLE, _FLOAT, _BYTES, _ITEMS = "$tensor", "$tuple", "$float", "$bytes", "$items"
"""Keys of the JSON objects that represent types that JSON doesn't have."""


def write_checkpoint(
    folder: Path, settings: Mapping[str, Any], state: Mapping[str, Any], rows: Path | None = None
) -> None:
    """Creates the folder of a checkpoint atomically.

    Args:
        folder: The new folder. Its parent must exist.
        settings: Settings of the run, as JSON values.
        state: State of the run: dictionaries, lists and tuples of tensors and plain values.
        rows: A folder with rows that several processes wrote, which is moved into the checkpoint.

    Raises:
        TypeError: If the state contains another type.
        ValueError: If the plain values are too large.
        OSError: If the folder can't be written, such as ``ENOSPC`` on a full disk.
    """
    plain, tensors = _flatten(state, "state")
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
        if rows is not None:
            rows.rename(scratch / ROWS)

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
    return document["settings"], _unflatten(document["state"], tensors, str(folder / CHECKPOINT))


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
    format_version(document, CHECKPOINT_VERSION, str(file))
    for key, kind in (("tensors", str), ("settings", dict), ("state", dict)):
        if not isinstance(document.get(key), kind):
            raise StorageError(f"{file} must have the key `{key}` with a value of type {kind.__name__}.")
    return document


def _flatten(tree: Any, name: str) -> tuple[Any, dict[str, Tensor]]:
    """Separates a tree into JSON and tensors. `_unflatten` is the inverse.

    Args:
        tree: Dictionaries, lists and tuples of tensors, None, booleans, numbers, strings and bytes.
        name: Name of the tree, with which the names of tensors and the paths in errors start.

    Raises:
        TypeError: If the tree contains another type.
    """
    tensors: dict[str, Tensor] = {}

    def plain(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            unique = path if path not in tensors else f"{path} {len(tensors)}"
            tensors[unique] = value.detach()
            return {_TENSOR: unique}
        if isinstance(value, float) and not math.isfinite(value):
            return {_FLOAT: str(value)}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, bytes):
            return {_BYTES: base64.b64encode(value).decode()}
        if isinstance(value, list | tuple):
            items = [plain(item, f"{path}/{index}") for index, item in enumerate(value)]
            return items if isinstance(value, list) else {_TUPLE: items}
        if isinstance(value, Mapping):
            if all(isinstance(key, str) and not key.startswith("$") for key in value):
                return {key: plain(item, f"{path}/{key}") for key, item in value.items()}
            return {_ITEMS: [[plain(key, path), plain(item, f"{path}/{key}")] for key, item in value.items()]}
        raise TypeError(
            f"`{path}` must be a tensor, None, bool, int, float, str, bytes, or a list, tuple or dictionary of these "
            f"to be saved, got a {type(value).__name__}."
        )

    return plain(tree, name), tensors


def _unflatten(document: Any, tensors: Mapping[str, Tensor], source: str) -> Any:
    """Restores a tree from JSON and tensors.

    Args:
        document: The JSON of `_flatten`.
        tensors: The tensors by name.
        source: Name of the file, for error messages.

    Raises:
        StorageError: If the JSON has another form, or names a missing tensor.
    """

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) != 1 or not next(iter(value)).startswith("$"):
            return {key: whole(item) for key, item in value.items()}
        [(kind, content)] = value.items()
        return special(kind, content)

    def special(kind: str, content: Any) -> Any:
        try:
            if kind == _TENSOR:
                return tensors[content]
            if kind == _TUPLE:
                return tuple(whole(item) for item in list(content))
            if kind == _FLOAT:
                return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]
            if kind == _BYTES:
                return base64.b64decode(content, validate=True)
            if kind == _ITEMS:
                return {whole(key): whole(item) for key, item in content}
        except (KeyError, TypeError, ValueError):
            pass
        raise StorageError(f"{source}: {str({kind: content})[:80]} doesn't refer to a value in this file.")

    return whole(document)
