from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from sparsedict.display import Displayed, finite, short, shown, table


@dataclass(frozen=True, repr=False)
class Record(Displayed):
    """What was measured since the record before, at one logging step.

    Attributes:
        step: Optimiser steps done.
        n_tokens: Tokens trained on so far in this run.
        objective: Loss and penalties together, mean over steps.
        loss: The loss alone, mean over steps.
        penalties: Each penalty by name, mean over steps.
        fvu: Fraction of the targets' variance left unexplained, over all tokens since the last record.
        l0: Latents that fire, mean over tokens.
        dead: Share of latents that haven't fired within the last ``dead_after`` tokens; NaN, shown as ``-``, until the
            run has seen so many. `sd.evaluate` counts another thing, the latents that never fire on its tokens.
        lr: Learning rate of the last step.
        seconds: Since the run began.
        eval_l0: Latents that fire in evaluation mode, mean over tokens of the last batch: what the dictionary does once
            it is trained. Under TopK or ReLU it is what ``l0`` is, under BatchTopK it follows from the threshold.
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


SHOWN = ("n_tokens", "loss", "fvu", "l0", "dead")
"""Columns of a notebook's table."""
MAX_ROWS = 20
_COUNTS = ("step", "n_tokens")
_NUMBERS = tuple(field.name for field in fields(Record) if field.name != "penalties")


@dataclass
class History:
    """The records of one dictionary's training, in order.

    Attributes:
        n_tokens: Tokens trained on.
        n_steps: Optimiser steps done.
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
        """Returns everything as plain numbers, for JSON; None stands for NaN, such as ``dead`` before it is known."""
        return finite(asdict(self))

    def state_dict(self) -> dict[str, Any]:
        """Returns everything as plain numbers and one table, ``[n_records, n_numbers]`` in float64."""
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
        """Becomes the history that gave this state."""
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
        # Evenly spaced records, the last among them.
        step = math.ceil(len(self.records) / MAX_ROWS) or 1
        chosen = reversed(self.records[::-step])
        rows = [tuple(short(getattr(record, name)) for name in SHOWN) for record in chosen]
        caption = f"History: {self.n_tokens:,} tokens in {self.n_steps:,} steps, {self.seconds:.1f} s"
        return table(caption, rows, SHOWN)
