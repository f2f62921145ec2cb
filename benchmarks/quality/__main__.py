"""Quality of dictionaries of several libraries and recipes, trained on the same activations.

``python -m benchmarks.quality`` trains autoencoders and transcoders of the contenders on stored activations of the
embedded model, of a TinyStories Llama (if ``SPARSEDICT_TEST_DATA`` is its folder) and of synthetic features. It
measures the error and L0 on held-out tokens, the loss recovered, dead latents, recovered features and stability.

Each cell is one contender, setting and seed. Cells are written as soon as they are measured, and later runs skip them,
so a run can be divided into pieces (``--max-minutes``). ``--clock`` repeats the comparison at equal processor time.
Each contender then trains on as many tokens as fit into the time of the reference, by its speed at equal tokens.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.quality._data import N_LAYERS, Source, load
from benchmarks.quality._measure import run
from benchmarks.quality._report import pareto, summary
from benchmarks.quality._results import SETTINGS, Interval, Results
from benchmarks.quality._task import Contender, Kind, Task
from benchmarks.quality.contenders import all_contenders
from benchmarks.report import RESULTS, machine, save_plot

REFERENCE = "BatchTopK, LazyAdam"
QUICK = {"n_tokens": 20_480, "n_latents": [256], "k": [8], "seeds": [0, 1], "sources": ["synthetic"]}


def main(argv: list[str] | None = None) -> None:
    args = _arguments(argv)
    torch.set_num_threads(args.threads)
    contenders = all_contenders()
    names = args.contenders or list(contenders)
    if unknown := set(names) - set(contenders):
        raise SystemExit(f"--contenders must be among {', '.join(contenders)}, got {', '.join(sorted(unknown))}.")
    results = Results(args.out / f"{args.name}.json")
    end = time.monotonic() + 60 * args.max_minutes
    n_left = 0 if args.report else _measure_all(args, {name: contenders[name] for name in names}, results, end)
    rows = [row for row in results.rows if _is_wanted(row, args)]
    text = summary(rows, args.reference, args.store)
    print(text)
    if n_left:
        print(f"\n{n_left} cells are left. Run the same command again.")
    (args.out / f"{args.name}.txt").write_text(text + "\n", encoding="utf-8")
    if rows:
        save_plot(pareto(rows), args.out, args.name)


def _is_wanted(row: dict[str, Any], args: argparse.Namespace) -> bool:
    return args.contenders is None or row["contender"] in args.contenders


def _measure_all(args: argparse.Namespace, contenders: dict[str, Contender], results: Results, end: float) -> int:
    """Measures missing cells until the time is over. Returns the number of cells that are still missing."""
    n_left = 0
    for source, layer in itertools.product(args.sources, args.layers):
        cells = [cell for cell in _cells(args, contenders, source, layer) if results.find(*cell) is None]
        if not cells:
            continue
        if time.monotonic() > end:
            n_left += len(cells)
            continue
        data = load(source, layer, args.n_distinct, args.store)
        for settings, seed in cells:
            if time.monotonic() > end:
                n_left += 1
                continue
            _measure(settings, seed, contenders[settings["contender"]], data, args, results)
    return n_left


def _cells(
    args: argparse.Namespace, contenders: dict[str, Contender], source: Source, layer: int
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yields the settings and the seed of each cell. Seeds change slowest, so that each is a whole comparison."""
    axes = (args.seeds, args.kinds, args.n_latents, args.k, contenders, args.lr_factors)
    if layer >= N_LAYERS[source]:
        return
    for seed, kind, n_latents, k, name, factor in itertools.product(*axes):
        if not contenders[name].can_train(kind, source):
            continue
        values = (source, layer, kind, n_latents, k, args.n_distinct, args.budget, args.n_tokens, name, factor)
        yield dict(zip(SETTINGS, values, strict=True)), seed


def _measure(
    settings: dict[str, Any], seed: int, contender: Contender, data: Any, args: argparse.Namespace, results: Results
) -> None:
    n_tokens = args.n_tokens if args.budget == "tokens" else _affordable(settings, args, results)
    task = Task(settings["kind"], settings["n_latents"], settings["k"], n_tokens, seed, settings["lr_factor"])
    label = ", ".join(f"{settings[name]}" for name in SETTINGS if name not in ("n_distinct", "budget", "n_planned"))
    try:
        found, rows = run(contender, task, data, window=args.window, losses=args.losses)
    except Exception as error:  # of another library, which must not end the comparison
        print(f"FAILED {label}, seed {seed}: {type(error).__name__}: {error}", flush=True)
        return
    row = {**settings, "seed": seed, "n_tokens": n_tokens, "id": f"{len(results.rows)}-{time.time_ns()}", **found}
    args.store.mkdir(parents=True, exist_ok=True)
    torch.save(rows.half(), args.store / f"{row['id']}.pt")
    results.add(row, machine(args.threads, "cpu"))
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in found.items() if value is not None)
    print(f"{label}, seed {seed}: {numbers}", flush=True)


def _affordable(settings: dict[str, Any], args: argparse.Namespace, results: Results) -> int:
    """Returns the number of tokens that a contender trains on in the time of the reference."""
    fixed = {**settings, "budget": "tokens"}
    rival = {**fixed, "contender": args.reference, "lr_factor": 1.0}
    own, other = (
        [row["seconds"] for seed in args.seeds if (row := results.find(cell, seed)) is not None]
        for cell in (fixed, rival)
    )
    if not own or not other:
        raise SystemExit("`--clock` requires the same cells at equal tokens, with the reference. Run it without first.")
    return max(1024, round(args.n_tokens * Interval.of(other).mean / Interval.of(own).mean))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", choices=get_args(Source), default=["stories", "synthetic"])
    parser.add_argument("--layers", nargs="+", type=int, default=[0], help="indices of the MLPs (default: 0)")
    parser.add_argument("--kinds", nargs="+", choices=get_args(Kind), default=list(get_args(Kind)))
    parser.add_argument("--contenders", nargs="+", default=None, help="names of contenders (default: all installed)")
    parser.add_argument("--reference", default=REFERENCE, help=f"contender of the ratios (default: {REFERENCE})")
    parser.add_argument("--n-latents", nargs="+", type=int, default=[1024], help="numbers of latents (default: 1,024)")
    parser.add_argument("--k", nargs="+", type=int, default=[8, 16, 32, 64], help="active latents per token")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds (default: 0 1 2)")
    parser.add_argument("--lr-factors", nargs="+", type=float, default=[1.0], help="multiples of the learning rates")
    parser.add_argument("--n-tokens", type=int, default=1_000_000, help="training tokens (default: 1,000,000)")
    parser.add_argument("--n-distinct", type=int, default=500_000, help="distinct training tokens (default: 500,000)")
    parser.add_argument(
        "--window", type=int, default=1_000_000, help="training tokens without a dead latent (default: 1,000,000)"
    )
    parser.add_argument("--no-losses", dest="losses", action="store_false", help="don't measure losses of the model")
    parser.add_argument("--clock", dest="budget", action="store_const", const="time", default="tokens")
    parser.add_argument("--max-minutes", type=float, default=float("inf"), help="start no cell after this time")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--store", type=Path, default=Path("quality-store"), help="folder of activations and decoders")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"folder of the results (default: {RESULTS})")
    parser.add_argument("--name", default="quality", help="name of the result files (default: quality)")
    parser.add_argument("--report", action="store_true", help="only write the table and the plot")
    parser.add_argument("--quick", action="store_true", help="a few small cells, to test the command")
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(QUICK, n_distinct=QUICK["n_tokens"])
    return args


if __name__ == "__main__":
    main()
