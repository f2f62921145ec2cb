"""Tables and the picture of the documentation's page on recipes: ``python -m benchmarks.quality.page``.

The command reads the measured cells, trains nothing, prints each table in Markdown and draws FVU by L0. Numbers are
means over seeds, with a 95 % interval by Student's t. Another library has the better of its measured learning rates, by
the first seed. `sparsedict train` always has its default rate.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.quality._results import Interval, Results, grouped, ratios
from benchmarks.report import COLOURS, RESULTS, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "quality.png"
OURS = "sparsedict train"
OTHERS = {
    "autoencoder": ("dictionary_learning BatchTopK, our rate", "SAELens BatchTopK, our rate"),
    "transcoder": ("sparsify TopK, our rate",),
}
"""The best recipes of other libraries at a k of 32. Only sparsify trains transcoders."""
SETS = {
    ("stories", 2, 1024, 300_000): "TinyStories Llama, layer 2",
    ("embedded", 2, 2048, 300_000): "embedded model, layer 2",
}
"""Sources, layers, latents and training tokens of the comparison with other libraries."""
IDEAS = {
    "default": OURS,
    "from neurons": f"{OURS}, neurons",
    "skip": f"{OURS}, skip",
    "bilinear": f"{OURS}, bilinear",
}
"""Transcoders whose error is compared with that of autoencoders."""

Rows = Sequence[Mapping[str, Any]]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS / "quality.json", help="measured cells")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="PNG file to write")
    args = parser.parse_args(arguments)
    rows = [row for row in Results(args.results).rows if row["budget"] == "tokens"]
    for (title, kind), by_k in compared(rows).items():
        print(f"\n{title}, {kind}\n\n{libraries(by_k)}")
    print(f"\n{distiller_over_autoencoder(rows)}")
    several = {names: by_k for names, by_k in compared(rows).items() if len(by_k) > 1}
    if not several:
        raise SystemExit(f"{args.results} has no comparison with several values of k to draw.")
    pareto(several).savefig(args.picture, dpi=150, bbox_inches="tight")


def compared(rows: Rows) -> dict[tuple[str, str], dict[int, dict[str, Rows]]]:
    """Returns the cells of each contender, by data set and kind, then by k, where another library was measured."""
    found: dict[tuple[str, str], dict[int, dict[str, Rows]]] = {}
    for names, own in grouped(rows, ("source", "layer", "n_latents", "n_planned")).items():
        if names not in SETS:
            continue
        for (kind, k), cells in sorted(grouped(own, ("kind", "k")).items()):
            by_name = {name: _at_best_rate(cells, name) for name in (OURS, *OTHERS[kind])}
            by_name = {name: group for name, group in by_name.items() if group}
            if len(by_name) > 1:
                found.setdefault((SETS[names], kind), {})[k] = by_name
    return found


def _at_best_rate(rows: Rows, contender: str) -> Rows:
    """Returns a contender's cells at the learning rate with the lowest FVU of its first seed."""
    own = [row for row in rows if row["contender"] == contender]
    if contender.startswith(OURS):
        return [row for row in own if row["lr_factor"] == 1]
    if not own:
        return []
    first = min(row["seed"] for row in own)
    best = min((row for row in own if row["seed"] == first), key=lambda row: row["fvu"])
    return [row for row in own if row["lr_factor"] == best["lr_factor"]]


def libraries(by_k: Mapping[int, Mapping[str, Rows]]) -> str:
    """Returns the comparison with other libraries, with the lowest error of each k first."""
    lines = [
        "| k | | rate | seeds | L0 | FVU | FVU over ours | loss recovered | dead |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for k, by_name in by_k.items():
        for name, rows in sorted(by_name.items(), key=lambda item: _interval(item[1], "fvu").mean):
            over = "" if name == OURS else Interval.of(ratios(rows, by_name[OURS], "fvu")).format(".2f")
            cells = [
                str(k),
                f"`{name}`" if name == OURS else name.removesuffix(", our rate"),
                "" if name == OURS else f"{rows[0]['lr_factor']:g}",
                str(len(rows)),
                f"{_interval(rows, 'l0').mean:.1f}",
                _error(_interval(rows, "fvu")),
                over,
                _interval(rows, "loss_recovered_zero").format(),
                f"{_interval(rows, 'dead').mean:.1%}".replace("%", " %"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(rows: Rows, column: str) -> Interval:
    return Interval.of([row[column] for row in rows])


def _error(fvu: Interval) -> str:
    return fvu.format(".4f" if fvu.mean >= 0.01 else ".5f")


def distiller_over_autoencoder(rows: Rows) -> str:
    """Returns the FVU of transcoders over that of the autoencoder with the same seed, by model, layer, k and length.

    A number in parentheses is the transcoder's L0 if it differs from k by more than a twentieth.
    """
    lines = [
        f"| | tokens | k | autoencoder, FVU | {' | '.join(IDEAS)} |",
        "|---|---|---|---|" + "---|" * len(IDEAS),
    ]
    for names, own in sorted(grouped(rows, ("source", "layer", "k", "n_planned")).items()):
        source, layer, k, n_tokens = names
        reference = _of(own, "autoencoder", OURS)
        found = {idea: _of(own, "transcoder", name) for idea, name in IDEAS.items()}
        if not reference or not found["default"]:
            continue
        cells = [_over(rows, reference, k) for rows in found.values()]
        place = f"{source}, layer {layer} | {n_tokens:,} | {k}"
        lines.append(f"| {place} | {_error(_interval(reference, 'fvu'))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _over(rows: Rows, reference: Rows, k: int) -> str:
    over = ratios(rows, reference, "fvu")
    if not over:
        return ""
    l0 = _interval(rows, "l0").mean
    return Interval.of(over).format(".2f") + (f" ({l0:.0f})" if abs(l0 - k) > k / 20 else "")


def _of(rows: Rows, kind: str, contender: str) -> Rows:
    return [row for row in rows if row["kind"] == kind and row["contender"] == contender and row["lr_factor"] == 1]


def pareto(found: Mapping[tuple[str, str], Mapping[int, Mapping[str, Rows]]]) -> Figure:
    """Draws FVU by L0: a line for each contender, and a point for each seed."""
    drawn, panels = figure(len(found), width=4.2, height=3.4, columns=2)
    for ax, ((title, kind), by_k) in zip(panels, found.items(), strict=True):
        for name in dict.fromkeys(name for by_name in by_k.values() for name in by_name):
            _line(ax, name, [by_name[name] for by_name in by_k.values() if name in by_name])
        ax.set_title(f"{title}, {kind}", fontsize=10)
        ax.set(xlabel="L0 on held-out tokens", ylabel="FVU", xscale="log", yscale="log")
        _mark_round_values(ax)
        ax.set_xticks(list(by_k), [str(k) for k in by_k])
        ax.minorticks_off()
        ax.legend(fontsize=8)
    return drawn


def _mark_round_values(ax: Axes) -> None:
    low, high = ax.get_ylim()
    digits = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 5, 7)
    values = [float(f"{digit}e{power}") for power in range(-5, 1) for digit in digits]
    shown = [value for value in values if low <= value <= high]
    ax.set_yticks(shown, [f"{value:g}" for value in shown])


def _line(ax: Axes, name: str, by_k: Sequence[Rows]) -> None:
    colour = COLOURS[name.split()[0]]
    points = [(_interval(rows, "l0").mean, _interval(rows, "fvu").mean) for rows in by_k]
    ax.plot(*zip(*points, strict=True), color=colour, lw=1.2, label=name.removesuffix(", our rate"))
    ax.scatter(
        [row["l0"] for rows in by_k for row in rows],
        [row["fvu"] for rows in by_k for row in rows],
        color=colour,
        s=14,
        alpha=0.8,
        linewidths=0,
    )


if __name__ == "__main__":
    main()
