"""The measured cells: storage, intervals and differences from a reference."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

SETTINGS = ("source", "layer", "kind", "n_latents", "k", "n_distinct", "budget", "n_planned", "contender", "lr_factor")
"""Names of the settings of a cell, without the seed."""

T_QUANTILES = (0.0, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""The 97.5 % quantile of Student's t distribution, by degrees of freedom."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with the half width of its 95 % interval by Student's t; ``None`` for a single seed."""

    mean: float
    half: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        n = len(values)
        if n < 2:
            return cls(mean(values), None, n)
        quantile = T_QUANTILES[n - 1] if n <= len(T_QUANTILES) else 1.96
        return cls(mean(values), quantile * stdev(values) / sqrt(n), n)

    def format(self, form: str = ".4f") -> str:
        return f"{self.mean:{form}}" + ("" if self.half is None else f" ± {self.half:{form}}")


class Results:
    """Cells in a JSON file. Each is written as soon as it is measured, so a stopped run continues with the next."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []

    def find(self, settings: Mapping[str, Any], seed: int) -> dict[str, Any] | None:
        """Returns the cell of the settings and the seed."""
        wanted = {**settings, "seed": seed}
        return next((row for row in self.rows if all(row[name] == value for name, value in wanted.items())), None)

    def add(self, row: dict[str, Any], facts: Mapping[str, Any]) -> None:
        """Adds a cell and writes the file."""
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        lines = ",\n  ".join(json.dumps(other) for other in self.rows)
        partial.write_text(f'{{"machine": {json.dumps(dict(facts))},\n "rows": [\n  {lines}\n ]}}\n', encoding="utf-8")
        partial.replace(self.path)


def grouped(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    """Returns the rows by the values of some settings, in the order of the rows."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def ratios(rows: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    """Returns the ratios of a measurement to that of the reference with the same seed."""
    known = {row["seed"]: row[column] for row in reference}
    return [row[column] / known[row["seed"]] for row in rows if row["seed"] in known]
