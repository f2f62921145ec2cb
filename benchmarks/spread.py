"""Tables of measurements with several seeds: the mean and, in parentheses, the range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from statistics import mean

from sparsedict.display import aligned


def mean_and_range(values: Sequence[float], form: str = ".2f") -> str:
    """Formats the mean and the range of one value per seed.

    Example:
        >>> mean_and_range([1.0, 2.0, 4.0])
        '2.33 (1.00 to 4.00)'
    """
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def table(
    rows: Mapping[str, Mapping[str, Sequence[float]]], columns: Sequence[str] | None = None, form: str = ".2f"
) -> str:
    """Returns a table of means and ranges, with a column for each measurement.

    Args:
        rows: One value per seed, by row and measurement. A measurement may be missing in some rows.
        columns: The measurements to show; by default those of the first row.
        form: Format of the numbers.
    """
    columns = list(next(iter(rows.values()))) if columns is None else columns
    cells = {
        name: {column: mean_and_range(values[column], form) if values.get(column) else "-" for column in columns}
        for name, values in rows.items()
    }
    return aligned(cells, columns)


def nearest(rows: Mapping[str, Mapping[str, Sequence[float]]], name: str, others: Sequence[str], column: str) -> str:
    """Returns the one of several rows whose mean measurement is nearest to that of a row, by the ratio.

    Args:
        rows: One value per seed, by row and measurement. The values of the measurement must be positive.
        name: The row.
        others: The rows to choose from.
        column: The measurement.
    """
    own = log(mean(rows[name][column]))
    return min(others, key=lambda other: abs(log(mean(rows[other][column])) - own))
