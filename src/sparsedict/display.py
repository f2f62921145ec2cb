"""Short representations of results: one line in a terminal, a table in a notebook."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

MAX_ITEMS = 4
"""Largest number of items of a collection that is shown in full."""
MAX_CHARACTERS = 200
"""Longest representation of a nested object that is shown in full. Otherwise its class is shown."""


class Displayed:
    """Base class of dataclasses with tensors. Their representation shows shapes instead of elements.

    Declare the dataclass with ``repr=False``. A notebook shows the rows of :meth:`display_rows` as a table.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch
        >>> @dataclass(frozen=True, eq=False, repr=False)
        ... class Result(Displayed):
        ...     cosine: torch.Tensor
        ...     n_tokens: int
        >>> Result(torch.zeros(2048), 1000)
        Result(cosine=float32[2048], n_tokens=1000)
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the rows of the table in a notebook, each a name and a value."""
        return [(field.name, described(getattr(self, field.name))) for field in fields(self) if field.repr]

    def __repr__(self) -> str:
        shown = ", ".join(f"{field.name}={short(getattr(self, field.name))}" for field in fields(self) if field.repr)
        return f"{type(self).__name__}({shown})"

    def _repr_html_(self) -> str:
        return table(type(self).__name__, self.display_rows())


def short(value: object) -> str:
    """Returns a one-line representation.

    Tensors are shown as dtype and shape, long collections as their length, and objects with a long representation as
    the name of their class.
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, (list, tuple, dict, set, frozenset)) and len(value) > MAX_ITEMS:
        return f"{type(value).__name__} of {len(value):,}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {short(item)}" for key, item in value.items()) + "}"
    if type(value) is list:
        return f"[{', '.join(map(short, value))}]"
    # Named tuples and torch.Size define their own representation.
    if type(value) is tuple:
        return f"({', '.join(map(short, value))}{',' if len(value) == 1 else ''})"
    text = repr(value)
    is_long = len(text) > MAX_CHARACTERS or "\n" in text
    return f"{type(value).__name__}(...)" if is_long and not isinstance(value, str | bytes) else text


def shown(value: float | None, form: str) -> str:
    """Formats a number; None and NaN become ``-``.

    Use it for every number that may be unknown. State the reason in a ``note`` or in the documentation.

    Example:
        >>> shown(0.5, ".1%"), shown(float("nan"), ".1%"), shown(-1e-9, ".3f")
        ('50.0%', '-', '0.000')
    """
    if value is None or math.isnan(value):
        return "-"
    text = format(value, form)
    # A number that rounds to 0 has no sign.
    return text.removeprefix("-") if not text.strip("-0.%") else text


def finite(value: Any) -> Any:
    """Replaces NaN and infinities in mappings, lists and numbers by None, since JSON has neither."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def described(value: object) -> str:
    """Returns :func:`short`, with the range and mean of a tensor, or the number of true elements of a mask."""
    text = short(value)
    value = value.detach() if isinstance(value, Tensor) else value
    if not isinstance(value, Tensor) or value.is_meta or not value.numel():
        return text
    if value.dtype == torch.bool:
        return f"{text}, {int(value.sum()):,} true"
    if value.is_floating_point():
        low, high, mean = (float(number) for number in (value.min(), value.max(), value.mean(dtype=torch.float64)))
        return f"{text}, {low:.4g} to {high:.4g}, mean {mean:.4g}"
    return text


def aligned(rows: Mapping[str, Mapping[str, str]], columns: Sequence[str]) -> str:
    """Returns a text table with a heading per column, a name per row, and right-aligned cells.

    Args:
        rows: Cells by row and column.
        columns: The columns to show, in order.

    Example:
        >>> print(aligned({"first": {"FVU": "0.1"}, "b": {"FVU": "0.25"}}, ["FVU"]))
                FVU
        first   0.1
        b      0.25
    """
    first = max(map(len, rows), default=0)
    widths = {name: max(len(name), *(len(cells[name]) for cells in rows.values())) for name in columns}
    lines = ["  ".join([" " * first, *(name.rjust(widths[name]) for name in columns)])]
    lines += [
        "  ".join([name.ljust(first), *(cells[column].rjust(widths[column]) for column in columns)])
        for name, cells in rows.items()
    ]
    return "\n".join(line.rstrip() for line in lines)


def listed(rows: Sequence[tuple[str, ...]]) -> str:
    """Returns a line of text for each pair of a name and a value. The values start in the same column.

    Example:
        >>> print(listed([("FVU", "0.1"), ("tokens", "1,000")]))
        FVU     0.1
        tokens  1,000
    """
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def table(caption: str, rows: Iterable[tuple[str, ...]], header: tuple[str, ...] | None = None) -> str:
    """Returns an HTML table of plain-text cells."""
    head = "" if header is None else f"<thead>{_row(header, 'th')}</thead>"
    body = "".join(_row(row, "td") for row in rows)
    return f"<table><caption>{html.escape(caption)}</caption>{head}<tbody>{body}</tbody></table>"


def _row(cells: Iterable[str], tag: str) -> str:
    return "<tr>" + "".join(f'<{tag} style="text-align: left">{html.escape(cell)}</{tag}>' for cell in cells) + "</tr>"
