"""Tables and the Pareto plot of the measured cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality._results import SETTINGS, Interval, grouped, ratios
from benchmarks.report import figure, table

COMPARISON = tuple(name for name in SETTINGS if name not in ("contender", "lr_factor"))
COLUMNS = {
    "l0": ("L0", ".1f"),
    "fvu": ("FVU", ".4f"),
    "loss_recovered_zero": ("loss recovered (zero)", ".4f"),
    "loss_recovered_mean": ("(mean)", ".4f"),
    "dead": ("dead", ".1%"),
    "truth": ("truth", ".1%"),
    "seconds": ("seconds", ".1f"),
}
STABLE = 0.7
"""Cosine from which on a decoder row returns under another seed."""


def summary(rows: Sequence[Mapping[str, Any]], reference: str, decoders: Path | None) -> str:
    """Returns a table for each comparison, with the best error first."""
    parts = []
    for comparison, own in grouped(rows, COMPARISON).items():
        named = dict(zip(COMPARISON, comparison, strict=True))
        title = (
            f"{named['source']}, layer {named['layer']}, {named['kind']}, {named['n_latents']:,} latents, "
            f"k {named['k']}, {named['n_distinct']:,} distinct tokens, equal {named['budget']}"
        )
        parts.append(f"{title}\n{_table(own, reference, decoders)}")
    return "\n\n".join(parts)


def _table(rows: Sequence[Mapping[str, Any]], reference: str, decoders: Path | None) -> str:
    by_contender = grouped(rows, ("contender", "lr_factor"))
    known = by_contender.get((reference, 1.0), [])
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    heading = ["", "rate", "seeds", "tokens", *(COLUMNS[name][0] for name in columns), "FVU over reference", "stable"]
    lines = [heading]
    for (name, factor), own in sorted(by_contender.items(), key=lambda item: _mean(item[1], "fvu")):
        cells = [Interval.of(found).format(COLUMNS[c][1]) if (found := _values(own, c)) else "-" for c in columns]
        over = ratios(own, known, "fvu")
        n_tokens = f"{_mean(own, 'n_tokens'):,.0f}"
        lines.append(
            [
                f"{name} (reference)" if own is known else name,
                f"x{factor:g}",
                str(len(own)),
                n_tokens,
                *cells,
                Interval.of(over).format(".3f") if over and own is not known else "",
                _stability(own, decoders),
            ]
        )
    return table(lines)


def _values(rows: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    return [row[column] for row in rows if row.get(column) is not None]


def _mean(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    return Interval.of(_values(rows, column)).mean


def _stability(rows: Sequence[Mapping[str, Any]], folder: Path | None) -> str:
    """Returns the share of live decoder rows that return under another seed, over all pairs of seeds."""
    paths = [] if folder is None else [folder / f"{row['id']}.pt" for row in rows]
    found = [torch.load(path).float() for path in paths if path.exists()]
    shares = [_returning(a, b) for one, other in combinations(found, 2) for a, b in ((one, other), (other, one))]
    return Interval.of(shares).format(".2f").split(" ")[0] if shares else "-"


def _returning(rows: torch.Tensor, others: torch.Tensor) -> float:
    return float(((rows @ others.T).amax(1) >= STABLE).float().mean())


def pareto(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Draws FVU by L0, with a panel for each data set, kind and width, and a line for each contender."""
    shared = tuple(name for name in COMPARISON if name != "k")
    panels = grouped(rows, shared)
    drawn, axes = figure(len(panels), width=6, height=4.5, columns=2)
    for axis, (setting, own) in zip(axes, panels.items(), strict=True):
        for (name, factor), group in grouped(own, ("contender", "lr_factor")).items():
            points = sorted(
                (_mean(cells, "l0"), Interval.of(_values(cells, "fvu"))) for cells in grouped(group, ("k",)).values()
            )
            label = name if factor == 1 else f"{name}, rate x{factor:g}"
            errors = [interval.half or 0.0 for _, interval in points]
            axis.errorbar(
                [x for x, _ in points], [y.mean for _, y in points], errors, marker="o", ms=3, lw=1, label=label
            )
        named = dict(zip(shared, setting, strict=True))
        axis.set_title(
            f"{named['source']}, layer {named['layer']}, {named['kind']}, {named['n_latents']:,}", fontsize=9
        )
        axis.set(xlabel="L0 on held-out tokens", ylabel="FVU", xscale="log", yscale="log")
        axis.legend(fontsize=6)
    return drawn
