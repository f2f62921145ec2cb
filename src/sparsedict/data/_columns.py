"""Columns of stored activations: their types, and conversion from and to tensors of activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I8": torch.int8,
    "I32": torch.int32,
}
"""Types of columns by their names in safetensors files."""
STORED_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)
"""Types in which activations can be stored."""
PER_TOKEN = ("tokens", "positions")
"""Columns with an integer per token."""
_SCALE = ".scale"
_LARGEST = 127
_SIGNED = {4: torch.int32, 2: torch.int16, 1: torch.int8}
_RAW = {4: np.uint32, 2: np.uint16, 1: np.uint8}
"""NumPy integer types by size in bytes, since NumPy has no bfloat16."""


@dataclass(frozen=True)
class Column:
    """A column of a store.

    Attributes:
        name: Name of the column.
        width: Entries per token.
        dtype: Type of the entries.
    """

    name: str
    width: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        return self.width * self.dtype.itemsize


def columns_of(activations: Sequence[tuple[str, int]], dtype: torch.dtype) -> tuple[Column, ...]:
    """Returns the columns that store activations, token ids and positions.

    Activations in int8 have a scale per row, in a column after all activations.

    Args:
        activations: Name and width of each tensor.
        dtype: Type in which activations are stored.
    """
    columns = [Column(name, width, dtype) for name, width in activations]
    if dtype == torch.int8:
        columns += [Column(name + _SCALE, 1, torch.float32) for name, _ in activations]
    return (*columns, *(Column(name, 1, torch.int32) for name in PER_TOKEN))


def raw(rows: Tensor) -> NDArray[Any]:
    """Returns rows on the CPU as unsigned integers of the same size, without copying."""
    size = rows.dtype.itemsize
    return rows.view(_SIGNED[size]).numpy().view(_RAW[size])


def raw_type(dtype: torch.dtype) -> type[np.unsignedinteger[Any]]:
    """Returns the type of the entries of :func:`raw`."""
    return _RAW[dtype.itemsize]


def encoded(values: Mapping[str, Tensor], columns: Sequence[Column]) -> list[Tensor]:
    """Returns the content of columns, contiguous on the CPU.

    Args:
        values: Activations ``[n_rows, width]`` and integers ``[n_rows]`` by the name of their column.
        columns: The columns.

    Raises:
        ValueError: If float16 can't represent an activation.
    """
    scales: dict[str, Tensor] = {}
    stored: list[Tensor] = []
    for column in columns:
        if column.name in scales:
            stored.append(scales[column.name])
            continue
        rows = values[column.name].to("cpu")
        if column.dtype == torch.int8:
            rows, scales[column.name + _SCALE] = quantised(rows)
        rows = rows.to(column.dtype).reshape(-1, column.width).contiguous()
        # Safetensors rejects one tensor under two names.
        rows = rows.clone() if any(rows.data_ptr() == other.data_ptr() for other in stored) else rows
        if column.dtype == torch.float16 and not bool(rows.isfinite().all()):
            raise ValueError(
                f"`dtype` must cover the range of the activations, but {column.name!r} overflows float16. "
                "Use torch.bfloat16."
            )
        stored.append(rows)
    return stored


def quantised(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns rows as int8, and the scale of each row, ``[n_rows, 1]``.

    The largest entry of a row in absolute value becomes 127. An entry of the result times the scale differs from the
    original by at most half of the scale.
    """
    wide = rows.to(torch.float32)
    scale = wide.abs().amax(-1, keepdim=True) / _LARGEST
    steps = torch.where(scale > 0, wide / scale, 0.0).round().clamp_(-_LARGEST, _LARGEST)
    return steps.to(torch.int8), scale


class Decoder:
    """Decodes columns into tensors that hold the rows of a buffer.

    Args:
        columns: The columns.
        n_rows: Number of rows of the buffer.

    Attributes:
        tensors: By the name of a column, ``[n_rows, width]``: float32 for int8, and otherwise of the stored type.
    """

    def __init__(self, columns: Sequence[Column], n_rows: int) -> None:
        self._columns = columns
        names = [column.name for column in columns]
        self._scale_of = {
            index: names.index(column.name + _SCALE)
            for index, column in enumerate(columns)
            if column.dtype == torch.int8
        }
        self.tensors: dict[str, Tensor] = {
            column.name: torch.empty(n_rows, column.width, dtype=decoded_dtype(column.dtype), device="cpu")
            for index, column in enumerate(columns)
            if index not in self._scale_of.values()
        }
        self._targets = {name: raw(tensor) for name, tensor in self.tensors.items()}

    def write(self, start: int, content: Sequence[NDArray[Any]]) -> int:
        """Decodes rows into the tensors from ``start`` on, and returns the row after them.

        Args:
            start: The first row.
            content: The rows of each column, as :func:`raw` returns them.
        """
        stop = start + len(content[0])
        for index, column in enumerate(self._columns):
            if column.name not in self._targets:
                continue
            if index in self._scale_of:
                scale = content[self._scale_of[index]].view(np.float32)
                target = self.tensors[column.name][start:stop].numpy()
                np.multiply(content[index].view(np.int8), scale, out=target)
            else:
                self._targets[column.name][start:stop] = content[index]
        return stop


def decoded_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the type of decoded entries."""
    return torch.float32 if dtype == torch.int8 else dtype
