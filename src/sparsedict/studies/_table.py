"""Text in aligned columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Cells = Mapping[str, str]
"""What a row says, by column."""


def aligned(rows: Mapping[str, Cells], columns: Sequence[str]) -> str:
    """Returns rows by name under column headings, numbers to the right.

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
