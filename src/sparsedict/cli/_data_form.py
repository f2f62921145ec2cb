"""`DataForm`, data in a form that `sparsedict.data` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class DataForm:
    """Data in a form that `token_source` takes.

    Attributes:
        data: The data. Columns of ids are named ``input_ids``.
        column: The column of its texts.
        are_ids: Whether it has token ids.
        has_columns: Whether its rows have several columns or fields.
    """

    data: Any
    column: str | None
    are_ids: bool
    has_columns: bool = True

    @property
    def is_flat(self) -> bool:
        """Whether it is one sequence of token ids."""
        return getattr(self.data, "ndim", 0) == 1


def form_of(found: Any, column: str | None) -> DataForm:
    """Returns data in a form that `token_source` takes."""
    if isinstance(found, Mapping):
        name = column or "input_ids"
        ids = found.get(name)
        if ids is None or (isinstance(ids, list) and any(isinstance(row, str) for row in ids)):
            return DataForm(found, column, are_ids=False)
        if name != "input_ids":
            found = {"input_ids": ids, "attention_mask": found.get("attention_mask")}
        only = found.get("attention_mask") is None and isinstance(ids, Tensor | np.ndarray)
        return DataForm(ids if only else found, None, are_ids=True)
    if isinstance(found, Tensor | np.ndarray):
        return DataForm(found, None, are_ids=True, has_columns=False)
    rows = iter(found)
    first = next(rows, None)
    if rows is found and first is not None:
        found = chain([first], rows)
    if isinstance(first, int):
        return DataForm(np.array([*found]), None, are_ids=True, has_columns=False)
    if not isinstance(first, Mapping):
        are_ids = first is not None and not isinstance(first, str)
        return DataForm(found, None if are_ids else column, are_ids=are_ids, has_columns=False)
    held = first.get(column or "input_ids")
    if not isinstance(held, list | tuple | np.ndarray | Tensor):
        return DataForm(found, column, are_ids=False)
    if column in (None, "input_ids"):
        return DataForm(found, None, are_ids=True)
    rows = ({"input_ids": row.get(column), "attention_mask": row.get("attention_mask")} for row in found)
    return DataForm(rows, None, are_ids=True)
