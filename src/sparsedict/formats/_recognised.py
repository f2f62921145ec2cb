"""Which library's files lie somewhere."""

from __future__ import annotations

import importlib
import os
import pkgutil
from functools import cache
from typing import Protocol, cast, runtime_checkable

import torch

from sparsedict.dictionaries import Dictionary
from sparsedict.formats._place import Place


@runtime_checkable
class Format(Protocol):
    """What a module of this room has."""

    def recognises(self, place: Place) -> bool:
        """Whether files are the library's, by their names, or by the names of what they hold; errors are ``read``'s."""
        ...

    def read(
        self,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Dictionary:
        """Reads a dictionary."""
        ...


@cache
def formats() -> tuple[Format, ...]:
    """Returns the public modules of this room."""
    room = importlib.import_module(__package__ or "")
    names = sorted(found.name for found in pkgutil.iter_modules(room.__path__) if not found.name.startswith("_"))
    return tuple(cast(Format, importlib.import_module(f"{__package__}.{name}")) for name in names)


def recognised(path: str | os.PathLike[str]) -> Format | None:
    """Returns the format of the files that a path names; ``None`` where no library's are recognised.

    Args:
        path: A folder or a file, or an address on the hub.
    """
    try:
        place = Place.of(path)
    except FileNotFoundError:
        return None
    return next((one for one in formats() if one.recognises(place)), None)
