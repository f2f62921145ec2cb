"""Time of a training step relative to the encoder product, for several libraries: ``python -m benchmarks.step``.

A step is the code between two batches of a library's own training loop: forward pass, loss, backward pass, optimiser,
decoder norm, counters. Contenders run alternately, each in a separate process, with the same weights and data. Each
turn also measures the unit of time, which is the encoder's float32 forward product into a reused buffer.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import Any, cast, get_args

from benchmarks import report
from benchmarks.case import Case, Kind, Selection
from benchmarks.contenders import MODULES, available
from benchmarks.race import Result, Stable, race, stable

SHAPES = {
    "small": Case("topk", "autoencoder", d=512, n_latents=8192, n_tokens=2048, k=32),
    "report": Case("topk", "autoencoder", d=1024, n_latents=16384, n_tokens=1024, k=32),
    "large": Case("topk", "autoencoder", d=768, n_latents=24576, n_tokens=4096, k=32),
    "gpu": Case("topk", "autoencoder", d=4096, n_latents=65536, n_tokens=4096, k=64),
    "layers": Case("topk", "cross_layer", d=512, n_latents=4096, n_tokens=2048, k=32, n_layers=4),
    "toy": Case("topk", "autoencoder", d=16, n_latents=128, n_tokens=64, k=4),
}
KINDS = [f"{selection}-{kind}" for kind in get_args(Kind) for selection in get_args(Selection)]
OURS = "sparsedict"


def cases(shapes: list[str], kinds: list[str], device: str) -> list[Case]:
    """Returns every kind at every shape; shapes of several layers have a kind of their own."""
    found: list[Case] = []
    for shape in shapes:
        for name in kinds:
            selection, kind = name.split("-")
            if (kind == "cross_layer") != (SHAPES[shape].n_layers > 1):
                continue
            found.append(
                replace(SHAPES[shape], selection=cast(Selection, selection), kind=cast(Kind, kind), device=device)
            )
    return found


def measure(args: argparse.Namespace, workers: Stable) -> list[Result]:
    """Races all contenders at each case."""
    results: list[Result] = []
    for case in cases(args.shapes, args.kinds, args.device):
        contenders = available(case, libraries=args.libraries, compiled=args.compile)
        print(f"\n{case}: {len(contenders)} contenders", flush=True)
        result = race(
            case, contenders, workers, rounds=args.rounds, seconds=args.seconds, turn_seconds=args.turn_seconds
        )
        results.append(result)
        if result.turns:
            print(report.table([HEADING, *rows(result)]), flush=True)
        for label, why in result.failures.items():
            print(f"FAILED {label}\n{why}", flush=True)
    return [result for result in results if result.turns]


HEADING = ("", "ms a step", "over the product", "over ours", "rounds")


def rows(result: Result) -> list[tuple[str, ...]]:
    """Returns the lines of one case's table, the cheapest first."""
    found = [("product alone", f"{result.product_seconds().median * 1000:.1f}", "1", "", "")]
    for label in sorted(result.turns, key=lambda label: result.step_seconds(label).median):
        ours = str(result.over(label, OURS)) if OURS in result.turns and label != OURS else ""
        milliseconds = f"{result.step_seconds(label).median * 1000:.1f}"
        found.append((label, milliseconds, str(result.over_product(label)), ours, str(len(result.turns[label]))))
    return found


def content(result: Result) -> dict[str, Any]:
    """Returns one case's results for JSON: the summary, and all that was measured."""
    return {
        "case": asdict(result.case),
        "product_seconds": asdict(result.product_seconds()),
        "contenders": {
            label: {
                "step_seconds": asdict(result.step_seconds(label)),
                "over_product": asdict(result.over_product(label)),
                "over_ours": asdict(result.over(label, OURS)) if OURS in result.turns else None,
                "turns": [asdict(turn) for turn in turns],
            }
            for label, turns in result.turns.items()
        },
        "failures": result.failures,
    }


def plot(results: list[Result], args: argparse.Namespace) -> Any:
    """Draws a panel for each case: each contender's step over the product, from the least to the most."""
    figure, panels = report.figure(len(results), width=5.2, height=3.2, columns=min(len(args.kinds), 4))
    for panel, result in zip(panels, results, strict=True):
        labels = sorted(result.turns, key=lambda label: -result.over_product(label).median)
        spreads = [result.over_product(label) for label in labels]
        medians = [spread.median for spread in spreads]
        errors = [
            [spread.median - spread.min for spread in spreads],
            [spread.max - spread.median for spread in spreads],
        ]
        bars = panel.barh(labels, medians, xerr=errors, color=[report.colour(label) for label in labels], capsize=2)
        for bar, label in zip(bars, labels, strict=True):
            bar.set_alpha(0.45 if "," in label else 1.0)
        panel.axvline(1, color="black", linewidth=0.8, linestyle=":")
        case = result.case
        shape = f"d {case.d:,}, {case.n_latents:,} latents, {case.n_tokens:,} tokens, k {case.k}"
        panel.set_title(f"{case.selection} {case.kind}\n{shape}", fontsize=9)
        panel.set_xlabel("step over the encoder's forward product", fontsize=8)
        panel.tick_params(labelsize=8)
    return figure


def main(argv: list[str] | None = None) -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["small", "report", "large"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument(
        "--libraries", nargs="+", choices=MODULES, default=None, help="libraries to compare (default: all installed)"
    )
    parser.add_argument("--compile", action="store_true", help="also run SAELens with `compile_sae` (needs a compiler)")
    parser.add_argument("--rounds", type=int, default=9, help="number of turns of each contender")
    parser.add_argument("--seconds", type=float, default=120, help="time after which no new round of a case starts")
    parser.add_argument("--turn-seconds", type=float, default=0.5, help="duration of the measured steps of a turn")
    args = parser.parse_args(argv)
    with stable(args.threads) as workers:
        results = measure(args, workers)
    name = args.name or ("step" if args.device == "cpu" else "step-cuda")
    report.save_plot(plot(results, args), args.out, name)
    everything = {"machine": report.machine(args.threads, args.device), "results": [content(r) for r in results]}
    tables = [f"{result.case}\n{report.table([HEADING, *rows(result)])}" for result in results]
    report.write(name, args.out, everything, "\n\n".join(tables))


if __name__ == "__main__":
    main()
