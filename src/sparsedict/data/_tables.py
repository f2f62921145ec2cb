"""Tables and columns of pandas, polars, pyarrow and datasets, as sequences.

The libraries are recognised by the types of the data, and aren't imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

TOKENS = "input_ids"
MASK = "attention_mask"
TEXT = "text"


def as_sequence(data: Any, name: str, text_column: str | None) -> Any:
    """Returns a table as a sequence of rows, and a column as an array or a sequence. Other data is returned unchanged.

    Rows are indexed from 0 by position, ignoring a pandas index.

    Raises:
        TypeError: If a table has no column of tokens or texts, or can't be read row by row.
        ValueError: If ``text_column`` isn't one of its columns.
    """
    library = _library(data)
    if library == "datasets":
        return _dataset(data, name, text_column)
    if library == "pandas":
        return _Rows(data, name, text_column) if data.ndim == 2 else data.to_numpy()
    if library == "polars":
        if hasattr(data, "collect"):
            raise TypeError(
                f"`{name}` must be a table in memory, got a polars {type(data).__name__}. Call `.collect()` first."
            )
        if hasattr(data, "columns"):
            return _Rows(data, name, text_column)
        return data.to_numpy() if data.dtype.is_integer() and not data.null_count() else data.to_list()
    if library == "pyarrow":
        if hasattr(data, "column_names"):
            return _Rows(data, name, text_column)
        return _arrow(data) if hasattr(data, "null_count") else data
    return data


def chosen_columns(names: Sequence[str], name: str, text_column: str | None) -> list[str]:
    """Returns the columns to read: ``text_column`` if given, else the columns of tokens, else ``"text"``.

    Raises:
        TypeError: If there are no such columns.
        ValueError: If ``text_column`` isn't among the columns.
    """
    if text_column is not None:
        if text_column not in names:
            near = get_close_matches(text_column, names, 1)
            raise ValueError(
                f"`text_column` must be a column of `{name}`, one of {sorted(names)[:12]}, got {text_column!r}."
                + (f" Did you mean {near[0]!r}?" if near else "")
            )
        return [text_column]
    if TOKENS in names:
        return [column for column in (TOKENS, MASK) if column in names]
    if TEXT in names:
        return [TEXT]
    raise TypeError(
        f"`{name}` must have a column `{TOKENS}` or `{TEXT}`, got the columns {sorted(names)[:12]}. "
        "Pass the name of the column with the texts as `text_column`, or rename the column of token ids to `input_ids`."
    )


class _Rows:
    """The rows of a table as mappings of the selected columns."""

    def __init__(self, table: Any, name: str, text_column: str | None) -> None:
        columns = getattr(table, "column_names", None) or list(table.columns)
        names = [column for column in columns if isinstance(column, str)]
        self._columns = {
            column: as_sequence(table[column], name, None) for column in chosen_columns(names, name, text_column)
        }

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[index] for name, column in self._columns.items()}


class _ArrowColumn:
    """A pyarrow column whose values are converted to Python objects when they are read."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: int) -> Any:
        return self._column[index].as_py()

    def __iter__(self) -> Iterator[Any]:
        return (value.as_py() for value in self._column)


def _arrow(column: Any) -> Any:
    integral = str(column.type).lstrip("u") in ("int8", "int16", "int32", "int64")
    return np.asarray(column) if integral and not column.null_count else _ArrowColumn(column)


def _dataset(data: Any, name: str, text_column: str | None) -> Any:
    """Returns a Hugging Face dataset with only the selected columns, as Python objects."""
    form = getattr(data, "format", {}).get("type")
    names = getattr(data, "column_names", None)
    # A column of a dataset, a streaming dataset without column names, or a transform that creates columns.
    if not names or form == "custom":
        return data
    columns = chosen_columns(names, name, text_column)
    if not hasattr(data, "format"):
        return data
    return (data.with_format(None) if form in ("pandas", "polars", "arrow") else data).select_columns(columns)


def _library(data: Any) -> str:
    if isinstance(data, Mapping):
        return ""  # a dataset with splits, among others
    for base in type(data).__mro__:
        library = base.__module__.partition(".")[0]
        if library in ("datasets", "pandas", "polars", "pyarrow"):
            return library
    return ""
