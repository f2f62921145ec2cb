"""Converts nested values with tensors to JSON and named tensors."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sparsedict.storage._description import StorageError

_TENSOR, _TUPLE, _FLOAT, _BYTES, _ITEMS = "$tensor", "$tuple", "$float", "$bytes", "$items"
"""Keys of the JSON objects that represent types that JSON doesn't have."""


def flatten(tree: Any, name: str) -> tuple[Any, dict[str, Tensor]]:
    """Separates a tree into JSON and tensors. :func:`unflatten` is the inverse.

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


def unflatten(document: Any, tensors: Mapping[str, Tensor], source: str) -> Any:
    """Restores a tree from JSON and tensors.

    Args:
        document: The JSON of :func:`flatten`.
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
