"""Callbacks: called with each new record while training. A callback is any callable ``(name, record, dictionary)``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparsedict.dictionaries import Dictionary
from sparsedict.training._history import Record

Callback = Callable[[str, Record, Dictionary], object]
"""Receives the dictionary's name (empty for ``fit``), the new record, and the dictionary in training."""


def numbers(record: Record) -> dict[str, float]:
    """Returns all numbers of a record by name, penalties as ``penalty/NAME``."""
    flat: dict[str, Any] = asdict(record)
    penalties = flat.pop("penalties")
    return flat | {f"penalty/{name}": value for name, value in penalties.items()}


class TensorBoard:
    """Writes every record to TensorBoard, tokens along the axis.

    Args:
        folder: Where the event files go.

    Raises:
        ImportError: If tensorboard isn't installed.
    """

    def __init__(self, folder: str | Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def __call__(self, name: str, record: Record, dictionary: Dictionary) -> None:
        for key, value in numbers(record).items():
            self._writer.add_scalar(f"{name}/{key}" if name else key, value, record.n_tokens)
        self._writer.flush()


class WeightsAndBiases:
    """Logs every record to a Weights & Biases run.

    Args:
        run: A run to log to; by default the current one, or a new one.
        **settings: Passed to ``wandb.init`` where a run has to be made.

    Raises:
        ImportError: If wandb isn't installed.
    """

    def __init__(self, run: Any = None, **settings: Any) -> None:
        if run is None:
            import wandb

            run = wandb.run or wandb.init(**settings)
        self._run = run

    def __call__(self, name: str, record: Record, dictionary: Dictionary) -> None:
        self._run.log({f"{name}/{key}" if name else key: value for key, value in numbers(record).items()})
