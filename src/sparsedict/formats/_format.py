"""`Format`, the interface of checkpoint formats, and the detection of the format of a file."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterable
from functools import cache
from typing import Protocol, cast, runtime_checkable

import torch

from sparsedict import checks
from sparsedict.dictionaries import Dictionary
from sparsedict.formats._location import Location


@runtime_checkable
class Format(Protocol):
    """A checkpoint format: a public module of this package, or an object passed to ``sd.load(path, formats=[...])``."""

    def recognises(self, location: Location) -> bool:
        """Returns whether the files have this format, by their names or by the names of their tensors.

        The method raises no errors for broken files, because ``read`` reports them.
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
            path: A folder, a file or an address on the hub. `sd.load` passes a `Location`, which is also a path.
            device: Device of the weights. The CPU by default.
            dtype: Type of the weights. The type in the file by default.
        """
        ...


@cache
def formats() -> tuple[Format, ...]:
    """Returns the built-in formats, which are the public modules of this package."""
    package = importlib.import_module(__package__ or "")
    names = sorted(found.name for found in pkgutil.iter_modules(package.__path__) if not found.name.startswith("_"))
    return tuple(cast(Format, importlib.import_module(f"{__package__}.{name}")) for name in names)


def checked_formats(own: object) -> tuple[Format, ...]:
    """Returns the formats of the argument ``formats`` of `sd.load`, after a check of their types.

    Raises:
        TypeError: If an item isn't an object with `recognises` and `read`.
    """
    if isinstance(own, str | bytes) or not isinstance(own, Iterable):
        raise TypeError(f"`formats` must be a list of formats, such as `formats=[MyFormat()]`, got {own!r:.80}.")
    given = tuple(own)
    for one in given:
        if isinstance(one, type) or not isinstance(one, Format):
            raise TypeError(
                "`formats` must contain objects with methods `recognises` and `read`, got "
                f"{one!r:.80}{checks.instance_hint(one)}."
            )
    return given


def detect_format(path: str | os.PathLike[str]) -> Format | None:
    """Returns the built-in format of a checkpoint, or ``None`` if no format recognises it.

    Args:
        path: A folder, a file or an address on the hub.
    """
    try:
        location = Location.from_path(path)
    except FileNotFoundError:
        return None
    return next((one for one in formats() if one.recognises(location)), None)
