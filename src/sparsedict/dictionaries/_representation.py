"""One-line representation of a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def summary(arguments: Mapping[str, Any], learned: Mapping[str, Tensor]) -> str:
    """Returns arguments by name, except ``None`` and ``False``, and the ranges of learned values."""
    shown = ", ".join(
        f"{name}={value}" for name, value in arguments.items() if value is not None and value is not False
    )
    return "; ".join([shown, *(_range(name, value) for name, value in learned.items())])


def _range(name: str, value: Tensor) -> str:
    """Returns the range of an activation's learned values, after the exponential if they are logarithms."""
    if value.is_meta or not value.numel():
        return name
    wide = value.double().exp() if name.startswith("log_") else value.double()
    low, high = float(wide.min()), float(wide.max())
    return f"{name.removeprefix('log_')} {low:.3g}" + (f" to {high:.3g}" if low < high else "")
