"""The records of a training run: `Record` and `History`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from sparsedict import checks
from sparsedict.display import Displayed, finite, short, shown, table


@dataclass(frozen=True, repr=False)
class Record(Displayed):
    """Measurements at one logging step, over all steps since the previous record.

    Attributes:
        step: Number of optimiser steps done.
        n_tokens: Number of training tokens so far in this run.
        objective: Sum of loss and penalties, mean over steps.
        loss: The loss alone, mean over steps.
        penalties: Each penalty by name, mean over steps.
        fvu: Fraction of variance unexplained of the targets, over all tokens since the previous record.
        l0: Number of active latents, mean over tokens.
        dead: Share of latents that haven't fired within the last ``dead_after`` tokens. NaN, shown as ``-``, until the
            run has seen ``dead_after`` tokens. In contrast, `sd.evaluate` counts the latents that never fire on its
            tokens.
        lr: Learning rate of the last step.
        seconds: Time since the start of the run.
        eval_l0: Number of active latents in evaluation mode, mean over tokens of the last batch. It equals ``l0`` for
            TopK and ReLU up to the last update of the weights. For BatchTopK it depends on the threshold.
    """

    step: int
    n_tokens: int
    objective: float
    loss: float
    penalties: dict[str, float]
    fvu: float
    l0: float
    dead: float
    lr: float
    seconds: float
    eval_l0: float = math.nan


DIVERGED_FROM = 0.5
"""FVU below which a dictionary has learned something."""
MIN_STEPS = 100
"""Number of steps before which a large error is no divergence: the rate may be meant for longer runs."""
SHOWN = ("n_tokens", "loss", "fvu", "l0", "dead")
"""Columns of the table in a notebook."""
MAX_ROWS = 20
_COUNTS = ("step", "n_tokens")
_NUMBERS = tuple(field.name for field in fields(Record) if field.name != "penalties")


@dataclass
class History:
    """The records of the training of one dictionary, in order.

    Attributes:
        n_tokens: Number of training tokens.
        n_steps: Number of optimiser steps.
        seconds: Duration of the run.
        records: One :class:`Record` for each logging step.
    """

    n_tokens: int = 0
    n_steps: int = 0
    seconds: float = 0.0
    records: list[Record] = field(default_factory=list)

    @property
    def last(self) -> Record:
        """The most recent record.

        Raises:
            IndexError: If nothing has been recorded.
        """
        return self.records[-1]

    def column(self, name: str) -> list[Any]:
        """Returns one attribute of all records, such as ``"fvu"``."""
        return [getattr(record, name) for record in self.records]

    def to_dict(self) -> dict[str, Any]:
        """Returns all records as plain numbers for JSON. None replaces NaN, such as an early value of ``dead``."""
        return finite(asdict(self))

    def state_dict(self) -> dict[str, Any]:
        """Returns the counts as plain numbers and the records as one float64 tensor, ``[n_records, n_numbers]``."""
        rows = [[*(getattr(record, name) for name in _NUMBERS), *record.penalties.values()] for record in self.records]
        return {
            "n_tokens": self.n_tokens,
            "n_steps": self.n_steps,
            "seconds": self.seconds,
            "numbers": list(_NUMBERS),
            "penalties": list(self.records[0].penalties) if self.records else [],
            "records": torch.tensor(rows, dtype=torch.float64, device="cpu"),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the history from the result of `state_dict`."""
        self.n_tokens, self.n_steps, self.seconds = state["n_tokens"], state["n_steps"], state["seconds"]
        names = state.get("numbers", [name for name in _NUMBERS if name != "eval_l0"])
        n = len(names)
        self.records = [
            Record(
                **{name: int(value) if name in _COUNTS else value for name, value in zip(names, row[:n], strict=True)},
                penalties=dict(zip(state["penalties"], row[n:], strict=True)),
            )
            for row in state["records"].tolist()
        ]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __repr__(self) -> str:
        tail = ""
        if self.records:
            last = self.last
            forms = {"fvu": ".4f", "l0": ".1f", "eval_l0": ".1f", "dead": ".1%"}
            tail = "".join(f", {name}={shown(getattr(last, name), form)}" for name, form in forms.items())
        return f"History(n_tokens={self.n_tokens:,}, n_steps={self.n_steps:,}, seconds={self.seconds:.1f}{tail})"

    def _repr_html_(self) -> str:
        # Evenly spaced records, including the last one.
        step = math.ceil(len(self.records) / MAX_ROWS) or 1
        chosen = reversed(self.records[::-step])
        rows = [tuple(short(getattr(record, name)) for name in SHOWN) for record in chosen]
        caption = f"History: {self.n_tokens:,} tokens in {self.n_steps:,} steps, {self.seconds:.1f} s"
        return table(caption, rows, SHOWN)


def warn_of_divergence(label: str, records: Sequence[Record]) -> None:
    """Warns if the error had been small, and is larger than that of the mean of the targets at the end.

    Args:
        label: Name of the dictionary in messages.
        records: The records of the run.
    """
    known = [record for record in records if not math.isnan(record.fvu)]
    if not known:
        return
    best, last = min(known, key=lambda record: record.fvu), known[-1]
    if last.step >= MIN_STEPS and best.fvu < DIVERGED_FROM and last.fvu > 1:
        checks.warn(
            f"Training of {label} diverged: the FVU was {best.fvu:.3f} at step {best.step:,}, and is {last.fvu:.2f} at "
            f"the end. Train with a lower learning rate; the largest was {max(record.lr for record in records):.3g}."
        )
