"""Warnings that point at the code of the user."""

from __future__ import annotations

import sys
import warnings
from typing import Any


def renamed(part: object, name: str, former: str, value: Any) -> None:
    """Sets an attribute of a frozen dataclass from an argument's former name, with a warning."""
    if value is not None:
        warn(f"`{former}` was renamed to `{name}`. The former name will be removed.", FutureWarning)
        object.__setattr__(part, name, value)


INTERNAL = {"sparsedict", "torch", "contextlib", "functools", "jaxtyping", "beartype"}
"""Packages whose frames lie between a warning and the code of the user."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Gives a warning that points at the user's line: the innermost frame outside of the library."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in INTERNAL:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
