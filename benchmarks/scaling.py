"""Scaling of the time of a sparse and a dense step: ``python -m benchmarks.scaling``.

Three lines, each from one base case: over the number of latents, over k, and over the number of tokens in a step.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any, cast

from benchmarks import report
from benchmarks.case import Case, Selection
from benchmarks.contenders import available
from benchmarks.race import Result, Stable, race, stable
from benchmarks.step import HEADING, content, rows

AXES = {"n_latents": "number of latents", "k": "k", "n_tokens": "tokens in a step"}
PATHS = {"sparsedict": "-", "sparsedict, dense": "--"}
"""The contenders, and how their lines are drawn."""


def lines(args: argparse.Namespace) -> dict[str, list[Case]]:
    """Returns the cases of each line."""
    base = Case(
        cast(Selection, args.selection),
        "autoencoder",
        d=args.d,
        n_latents=args.base_latents,
        n_tokens=args.base_tokens,
        k=args.base_k,
        device=args.device,
        n_batches=2,
    )
    values = {"n_latents": args.n_latents, "k": args.k, "n_tokens": args.n_tokens}
    return {axis: [replace(base, **{axis: value}) for value in values[axis]] for axis in AXES}


def measure(args: argparse.Namespace, workers: Stable) -> dict[str, list[Result]]:
    """Races ours and the dense path at each case."""
    found: dict[str, list[Result]] = {}
    for axis, cases in lines(args).items():
        for case in cases:
            result = race(
                case,
                [path for path in available(case, libraries=["ours"]) if path.label in PATHS],
                workers,
                rounds=args.rounds,
                seconds=args.seconds,
                turn_seconds=args.turn_seconds,
            )
            print(f"\n{case}", flush=True)
            for label, why in result.failures.items():
                print(f"FAILED {label}\n{why}", flush=True)
            if result.turns:
                print(report.table([HEADING, *rows(result)]), flush=True)
                found.setdefault(axis, []).append(result)
    return found


def plot(results: dict[str, list[Result]]) -> Any:
    """Draws milliseconds above and multiples of the product below, a column for each line."""
    figure, panels = report.figure(2 * len(results), width=4.6, height=3.4, columns=len(results))
    for column, (axis, found) in enumerate(results.items()):
        above, below = panels[column], panels[column + len(results)]
        for label, style in PATHS.items():
            points = [result for result in found if label in result.turns]
            places = [getattr(result.case, axis) for result in points]
            times = [result.step_seconds(label).median * 1000 for result in points]
            above.plot(places, times, style, marker="o", label=label, color=report.colour(label))
            spreads = [result.over_product(label) for result in points]
            below.plot(places, [s.median for s in spreads], style, marker="o", color=report.colour(label))
            low, high = [s.min for s in spreads], [s.max for s in spreads]
            below.fill_between(places, low, high, color=report.colour(label), alpha=0.15)
        places = [getattr(result.case, axis) for result in found]
        products = [result.product_seconds().median * 1000 for result in found]
        above.plot(places, products, ":", color="black", label="the encoder's product")
        above.set(xscale="log", yscale="log", ylabel="ms a step")
        above.set_title(_fixed(axis, found[0].case), fontsize=9)
        below.set(xscale="log", xlabel=AXES[axis], ylabel="step over the product", ylim=(0, None))
    panels[0].legend(fontsize=8)
    return figure


def _fixed(axis: str, case: Case) -> str:
    """Returns a description of the constant sizes of a line."""
    parts = {"n_latents": f"{case.n_latents:,} latents", "n_tokens": f"{case.n_tokens:,} tokens", "k": f"k {case.k}"}
    return ", ".join([f"d {case.d:,}", *(part for name, part in parts.items() if name != axis)])


def main(argv: list[str] | None = None) -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--selection", choices=["topk", "batch_topk", "relu", "jumprelu"], default="topk")
    parser.add_argument("--d", type=int, default=512, help="width of inputs and outputs")
    parser.add_argument("--base-latents", type=int, default=8192)
    parser.add_argument("--base-tokens", type=int, default=1024)
    parser.add_argument("--base-k", type=int, default=32)
    parser.add_argument("--n-latents", type=int, nargs="+", default=[2**power for power in range(10, 18)])
    parser.add_argument("--k", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--n-tokens", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=5, help="number of turns of each path")
    parser.add_argument("--seconds", type=float, default=60, help="time after which no new round of a case starts")
    parser.add_argument("--turn-seconds", type=float, default=0.4, help="duration of the measured steps of a turn")
    args = parser.parse_args(argv)
    with stable(args.threads) as workers:
        results = measure(args, workers)
    name = args.name or ("scaling" if args.device == "cpu" else "scaling-cuda")
    report.save_plot(plot(results), args.out, name)
    everything = {
        "machine": report.machine(args.threads, args.device),
        "results": {axis: [content(result) for result in found] for axis, found in results.items()},
    }
    tables = [
        f"{axis}: {result.case}\n{report.table([HEADING, *rows(result)])}"
        for axis, found in results.items()
        for result in found
    ]
    report.write(name, args.out, everything, "\n\n".join(tables))


if __name__ == "__main__":
    main()
