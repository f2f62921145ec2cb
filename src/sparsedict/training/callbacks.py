"""Callbacks for `fit`, which log each record. Any callable ``(name, record, dictionary)`` is a callback."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparsedict import checks
from sparsedict.dictionaries import Dictionary
from sparsedict.display import finite
from sparsedict.training._history import Record

Callback = Callable[[str, Record, Dictionary], object]
"""Called with the name of the dictionary (empty in ``fit``), the new record, and the dictionary."""


def numbers(record: Record) -> dict[str, float]:
    """Returns all numbers of a record by name. A penalty has the name ``penalty/NAME``."""
    flat: dict[str, Any] = asdict(record)
    penalties = flat.pop("penalties")
    return flat | {f"penalty/{name}": value for name, value in penalties.items()}


def finite_numbers(record: Record) -> dict[str, float]:
    """Returns the finite `numbers` of a record. For example, ``dead`` is NaN for the first ``dead_after`` tokens."""
    return {name: value for name, value in numbers(record).items() if math.isfinite(value)}


class JSONLines:
    """Appends a line of JSON to a file for each record and dictionary.

    A line contains the name of the dictionary, ``dictionary``, and the values of `numbers`. Numbers that aren't finite
    are ``null``. A resumed run first removes the lines that were written after its checkpoint, then continues the file.

    Args:
        path: The file. A new run overwrites it.

    Raises:
        OSError: If the file can't be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = checks.path("path", path)
        self._n_bytes = 0

    def __call__(self, name: str, record: Record, dictionary: Dictionary) -> None:
        values = {"dictionary": name, **finite(numbers(record))}
        line = f"{json.dumps(values, allow_nan=False, ensure_ascii=False)}\n".encode()
        with self._path.open("r+b" if self._n_bytes and self._path.exists() else "wb") as file:
            file.truncate(self._n_bytes)
            file.seek(0, os.SEEK_END)
            file.write(line)
            self._n_bytes = file.tell()

    def state_dict(self) -> dict[str, Any]:
        """Returns the length of the file in bytes."""
        return {"n_bytes": self._n_bytes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Removes the lines that were written after this state."""
        there = self._path.stat().st_size if self._path.is_file() else 0
        self._n_bytes = min(state["n_bytes"], there)
        if there > self._n_bytes:
            os.truncate(self._path, self._n_bytes)


class TensorBoard:
    """Writes the finite numbers of each record to TensorBoard, with the number of tokens as the step.

    A resumed run removes the points that were written after its checkpoint, then continues the curves.

    Args:
        folder: Folder of the event files.

    Raises:
        ImportError: If tensorboard isn't installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoard needs the package tensorboard: pip install tensorboard") from error

        self._make_writer = functools.partial(SummaryWriter, str(checks.path("folder", folder)))
        self._writer: Any = None
        self._n_tokens = 0

    def __call__(self, name: str, record: Record, dictionary: Dictionary) -> None:
        if self._writer is None:
            self._writer = self._make_writer(purge_step=self._n_tokens + 1)
        for key, value in finite_numbers(record).items():
            self._writer.add_scalar(f"{name}/{key}" if name else key, value, record.n_tokens)
        self._writer.flush()
        self._n_tokens = record.n_tokens

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of tokens at the last point."""
        return {"n_tokens": self._n_tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues after the last point of this state."""
        self._n_tokens = state["n_tokens"]


class WeightsAndBiases:
    """Logs the finite numbers of each record to a Weights & Biases run, with the optimiser step as the step.

    Weights & Biases ignores steps that a run has logged already. A run that is resumed under the same ``id`` therefore
    logs no step twice.

    Args:
        run: The run to log to. By default the current run, or a new run if there is none.
        **settings: Arguments of ``wandb.init`` for a new run.

    Raises:
        ImportError: If wandb isn't installed.
    """

    def __init__(self, run: Any = None, **settings: Any) -> None:
        if run is None:
            try:
                import wandb
            except ImportError as error:
                raise ImportError("Weights & Biases needs the package wandb: pip install wandb") from error

            run = wandb.run or wandb.init(**settings)
        self._run = run
        self._first: int = getattr(run, "step", 0) or 0

    def __call__(self, name: str, record: Record, dictionary: Dictionary) -> None:
        values = {f"{name}/{key}" if name else key: value for key, value in finite_numbers(record).items()}
        self._run.log(values, step=self._first + record.step)

    def state_dict(self) -> dict[str, Any]:
        """Returns the step of the Weights & Biases run at which training began."""
        return {"first": self._first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the step at which training began."""
        self._first = state["first"]
