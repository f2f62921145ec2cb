"""The interface of formats, and the choice of the format of some files."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterable
from functools import cache
from typing import Protocol, cast, runtime_checkable

import torch

from sparsedict.dictionaries import Dictionary
from sparsedict.formats._place import Place


@runtime_checkable
class Format(Protocol):
    """A format of checkpoints: a public module of this room, or an object given to ``sd.load(path, formats=[...])``."""

    def recognises(self, place: Place) -> bool:
        """Returns whether files are the library's, by their names, or by the names of tensors in them.

        It raises no errors for broken files: those are ``read``'s.
        """
        ...

    def read(
        self,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Dictionary:
        """Reads a dictionary.

        Args:
            path: A folder or file, or an address on the hub. `sd.load` gives a `Place`, which is a path too.
            device: Where to put the weights; the CPU where left out.
            dtype: Type to convert them to; as in the file where left out.
        """
        ...


@cache
def formats() -> tuple[Format, ...]:
    """Returns the public modules of this room."""
    room = importlib.import_module(__package__ or "")
    names = sorted(found.name for found in pkgutil.iter_modules(room.__path__) if not found.name.startswith("_"))
    return tuple(cast(Format, importlib.import_module(f"{__package__}.{name}")) for name in names)


def checked_formats(own: object) -> tuple[Format, ...]:
    """Returns a caller's formats.

    Raises:
        TypeError: If they aren't objects with `recognises` and `read`.
    """
    if isinstance(own, str | bytes) or not isinstance(own, Iterable):
        raise TypeError(f"`formats` must be a list of formats, such as `formats=[MyFormat()]`, got {own!r:.80}.")
    given = tuple(own)
    for one in given:
        if isinstance(one, type) or not isinstance(one, Format):
            hint = " (pass an instance, not the class)" if isinstance(one, type) else ""
            raise TypeError(f"`formats` must hold objects with methods `recognises` and `read`, got {one!r:.80}{hint}.")
    return given


def recognised(path: str | os.PathLike[str]) -> Format | None:
    """Returns the format of the files that a path names; ``None`` where no format recognises them.

    Args:
        path: A folder or a file, or an address on the hub.
    """
    try:
        place = Place.of(path)
    except FileNotFoundError:
        return None
    return next((one for one in formats() if one.recognises(place)), None)
