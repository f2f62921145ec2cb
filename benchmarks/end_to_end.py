"""Time per token of harvest and training, compared with other libraries: ``python -m benchmarks.end_to_end``.

Each library harvests activations of a small language model by its own store and trains a TopK dictionary on them by its
own loop, all with the same widths, k, batch size and number of tokens, other settings as the library has them. The
whole is timed, after a run of a few steps that isn't; the library's import and the model's loading are not. One common
code then measures the fraction of variance unexplained on held-out tokens. Runs take turns, each in a new process.

A run of few steps measures time and not the quality of a trained dictionary: ``--steps 1000`` trains for longer.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import time
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, get_args

import torch

import sparsedict as sd
from benchmarks import report
from benchmarks.case import Kind
from benchmarks.contenders import MODULES, Contender
from benchmarks.harvests import HELD_OUT, Loaded, Reconstruct, Source, Task, harvest, has_stories, load
from benchmarks.race import Spread
from benchmarks.worker import prepare, why

N_WARM_STEPS = 4
LAYERS = {"embedded": 1, "stories": 2}
WIDTHS = {"embedded": (4096, 32), "stories": (2048, 16)}
"""Latents and k, by model."""


@dataclass(frozen=True)
class Trained:
    """The result of one run."""

    seconds: float
    fvu: float


@torch.no_grad()
def fvu(task: Task, loaded: Loaded, reconstruct: Reconstruct) -> float:
    """Returns the fraction of variance unexplained over all held-out tokens except BOS."""
    site = sd.Site(loaded.model, task.path, exclude_tokens=[task.bos])
    errors, targets = [], []
    for block in loaded.held_out.split(32):
        batch = site.capture(block.to(task.device)).batch()
        read = batch.outputs if task.kind == "autoencoder" else batch.inputs
        errors.append((reconstruct(read).float() - batch.outputs).double())
        targets.append(batch.outputs.double())
    target = torch.cat(targets)
    return float(torch.cat(errors).square().sum() / (target - target.mean(0)).square().sum())


def _serve(pipe: Connection, contender: Contender, task: Task, threads: int | None) -> None:
    prepare(threads)
    try:
        torch.manual_seed(task.seed)
        loaded = load(task)
        few = replace(task, n_tokens=min(N_WARM_STEPS * task.batch_size, task.n_tokens))
        harvest(contender).prepare(few, loaded, contender.options)()
        run = harvest(contender).prepare(task, loaded, contender.options)
        start = time.perf_counter()
        reconstruct = run()
        if task.device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        pipe.send(Trained(seconds, fvu(task, loaded, reconstruct)))
    except BaseException as error:
        pipe.send(why(error))


def run(contender: Contender, task: Task, threads: int | None, seconds: float) -> Trained | str:
    """Runs one contender once. Returns a text with the reason if it failed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, contender, task, threads), daemon=True)
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(seconds) else f"took more than {seconds:.0f} s"
    except EOFError:
        return "the process ended"
    finally:
        process.join(timeout=5)
        process.kill()
        process.join()


def contenders(task: Task, libraries: list[str] | None) -> list[Contender]:
    """Returns all installed contenders that can do the task."""
    found: list[Contender] = []
    for module in libraries or MODULES:
        if importlib.util.find_spec(Contender(module).library.IMPORT) is not None:
            found += [Contender(module, options) for options in harvest(Contender(module)).variants(task)]
    return found


def tasks(args: argparse.Namespace) -> list[Task]:
    """Returns the tasks of every kind for every available model."""
    sources: list[Source] = [source for source in args.sources if source != "stories" or has_stories()]
    return [
        Task(
            source,
            kind,
            layer=LAYERS[source],
            n_latents=args.n_latents or WIDTHS[source][0],
            k=args.k or WIDTHS[source][1],
            batch_size=args.batch_size,
            n_tokens=(args.steps or args.n_tokens // args.batch_size) * args.batch_size,
            n_held_out=args.n_held_out,
            device=args.device,
        )
        for source in sources
        for kind in args.kinds
    ]


def measure(task: Task, args: argparse.Namespace) -> dict[str, Any]:
    """Runs all contenders alternately for several rounds."""
    print(f"\n{task}", flush=True)
    runs: dict[str, list[Trained]] = {}
    failures: dict[str, str] = {}
    racing = contenders(task, args.libraries)
    for index in range(args.rounds):
        for contender in racing[index % len(racing) :] + racing[: index % len(racing)]:
            if contender.label in failures:
                continue
            result = run(contender, task, args.threads, args.seconds)
            if isinstance(result, str):
                failures[contender.label] = result
                print(f"FAILED {contender.label}: {result}", flush=True)
            else:
                runs.setdefault(contender.label, []).append(result)
                speed = task.n_tokens / result.seconds
                print(f"  {contender.label:32}{speed:10,.0f} tokens/s   FVU {result.fvu:.4f}", flush=True)
    runs = {label: found for label, found in runs.items() if label not in failures}
    return {"task": asdict(task), "runs": runs, "failures": failures}


def summary(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns the lines of one task's table, the fastest first."""
    runs: dict[str, list[Trained]] = result["runs"]
    n_tokens = result["task"]["n_tokens"]
    rows: list[tuple[str, ...]] = [("", "tokens/s", "time over ours", "FVU", "runs")]
    ours = runs.get("sparsedict")
    for label, found in sorted(runs.items(), key=lambda item: median(run.seconds for run in item[1])):
        times = [run.seconds for run in found]
        over = ""
        if ours is not None and label != "sparsedict":
            over = str(Spread.of([a.seconds / b.seconds for a, b in zip(found, ours, strict=False)]))
        rows.append(
            (label, f"{n_tokens / median(times):,.0f}", over, f"{median(r.fvu for r in found):.4f}", str(len(found)))
        )
    return rows


def plot(results: list[dict[str, Any]]) -> Any:
    """Draws a panel for each task with tokens per second, and the FVU next to each bar."""
    figure, panels = report.figure(len(results), width=5.5, height=3, columns=2)
    for panel, result in zip(panels, results, strict=True):
        rows = summary(result)[1:][::-1]
        labels = [row[0] for row in rows]
        speeds = [float(row[1].replace(",", "")) for row in rows]
        panel.barh(labels, speeds, color=[report.colour(label) for label in labels])
        for place, (row, speed) in enumerate(zip(rows, speeds, strict=True)):
            panel.text(speed, place, f" FVU {row[3]}", va="center", fontsize=7)
        panel.set_xlim(0, max(speeds) * 1.25)
        panel.set_xlabel("tokens per second, harvest and training", fontsize=8)
        panel.set_title(f"{result['task']['source']} model, {result['task']['kind']}", fontsize=9)
        panel.tick_params(labelsize=8)
    return figure


def main(argv: list[str] | None = None) -> None:
    parser = report.parser(__doc__)
    for option, choices in (("--sources", get_args(Source)), ("--kinds", get_args(Kind))):
        parser.add_argument(option, nargs="+", choices=choices, default=choices)
    parser.add_argument(
        "--libraries", nargs="+", choices=MODULES, default=None, help="libraries to compare (default: all installed)"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--n-tokens", type=int, default=500_000, help="tokens of a run, rounded down to whole steps")
    length.add_argument("--steps", type=int, default=None, help="optimiser steps of a run, instead of --n-tokens")
    parser.add_argument("--n-held-out", type=int, default=HELD_OUT, help="tokens to evaluate on, at most 100,000")
    parser.add_argument("--batch-size", type=int, default=2048, help="tokens per step, a multiple of 256")
    parser.add_argument(
        "--n-latents", type=int, default=None, help="latents (default: 4,096 for the embedded model, otherwise 2,048)"
    )
    parser.add_argument(
        "--k",
        type=int,
        default=None,
        help="active latents per token (default: 32 for the embedded model, otherwise 16)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender")
    parser.add_argument("--seconds", type=float, default=300, help="time limit of one run")
    args = parser.parse_args(argv)
    if args.batch_size % 256:
        parser.error(f"--batch-size must be a multiple of 256, got {args.batch_size}")
    if args.steps is not None and args.steps < 1:
        parser.error(f"--steps must be at least 1, got {args.steps}")
    if args.steps is None and args.n_tokens < args.batch_size:
        parser.error(f"--n-tokens must be at least one batch of {args.batch_size}, got {args.n_tokens}")
    results = [result for task in tasks(args) if (result := measure(task, args))["runs"]]
    name = args.name or ("end_to_end" if args.device == "cpu" else "end_to_end-cuda")
    report.save_plot(plot(results), args.out, name)
    written = [
        {**result, "runs": {label: [asdict(run) for run in found] for label, found in result["runs"].items()}}
        for result in results
    ]
    tables = [f"{Task(**r['task'])}\n{report.table(summary(r))}" for r in results]
    everything = {"machine": report.machine(args.threads, args.device), "results": written}
    report.write(name, args.out, everything, "\n\n".join(tables))


if __name__ == "__main__":
    main()
