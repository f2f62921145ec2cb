"""Callbacks: called with each new record while training. A callback is any callable ``(name, record, dictionary)``."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparsedict.dictionaries import Dictionary
from sparsedict.display import finite
from sparsedict.training._history import Record

Callback = Callable[[str, Record, Dictionary], object]
"""Receives the dictionary's name (empty for ``fit``), the new record, and the dictionary in training."""


def numbers(record: Record) -> dict[str, float]:
    """Returns all numbers of a record by name, penalties as ``penalty/NAME``."""
    flat: dict[str, Any] = asdict(record)
    penalties = flat.pop("penalties")
    return flat | {f"penalty/{name}": value for name, value in penalties.items()}


def known(record: Record) -> dict[str, float]:
    """Returns the `numbers` of a record that are finite: ``dead`` is NaN until ``dead_after`` tokens have been seen."""
    return {name: value for name, value in numbers(record).items() if math.isfinite(value)}


class JSONLines:
    """Appends one line of JSON for each record and dictionary to a file, at once.

    A line holds ``dictionary``, the dictionary's name, and the numbers of `numbers`; ``null`` stands for a number that
    isn't finite. A run that is resumed continues the file: lines that came after its checkpoint are removed first.

    Args:
        path: The file. It is emptied where a run begins anew.

    Raises:
        OSError: If the file can't be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
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
        """Returns how long the file is."""
        return {"n_bytes": self._n_bytes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Removes what was written after this state."""
        there = self._path.stat().st_size if self._path.is_file() else 0
        self._n_bytes = min(state["n_bytes"], there)
        if there > self._n_bytes:
            os.truncate(self._path, self._n_bytes)


class TensorBoard:
    """Writes the finite numbers of every record to TensorBoard, tokens along the axis.

    A run that is resumed continues the curves: points that came after its checkpoint are dropped.

    Args:
        folder: Where the event files go.

    Raises:
        ImportError: If tensorboard isn't installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoard needs the package tensorboard: pip install tensorboard") from error

        self._make_writer = functools.partial(SummaryWriter, str(folder))
        self._writer: Any = None
        self._n_tokens = 0

    def __call__(self, name: str, record: Record, dictionary: Dictionary) -> None:
        if self._writer is None:
            self._writer = self._make_writer(purge_step=self._n_tokens + 1)
        for key, value in known(record).items():
            self._writer.add_scalar(f"{name}/{key}" if name else key, value, record.n_tokens)
        self._writer.flush()
        self._n_tokens = record.n_tokens

    def state_dict(self) -> dict[str, Any]:
        """Returns the tokens up to which there are points."""
        return {"n_tokens": self._n_tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues behind the last point of this state."""
        self._n_tokens = state["n_tokens"]


class WeightsAndBiases:
    """Logs the finite numbers of every record to a Weights & Biases run, optimiser steps along the axis.

    Weights & Biases ignores steps that a run has logged already, so a run that is resumed under the same ``id`` logs
    none twice.

    Args:
        run: A run to log to; by default the current one, or a new one.
        **settings: Passed to ``wandb.init`` where a run has to be made.

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
        values = {f"{name}/{key}" if name else key: value for key, value in known(record).items()}
        self._run.log(values, step=self._first + record.step)

    def state_dict(self) -> dict[str, Any]:
        """Returns the step of the run at which training began."""
        return {"first": self._first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Counts steps from where this state did."""
        self._first = state["first"]
