"""Peak memory of training, compared with other libraries: ``python -m benchmarks.memory``.

Each contender constructs a dictionary and runs three steps in a new process, after a toy case that triggers all lazy
imports. The result is the peak of resident memory during the steps, less the memory before the construction of the
dictionary. It includes weights, gradients, the optimiser's state, temporary tensors and one batch of data.

The same process then measures the steps again, by PyTorch's record of allocations: the peak of the memory of all
tensors. Resident memory also contains the gaps that the system's allocator leaves between arrays. On CUDA, both are
PyTorch's peak of allocated memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks import report
from benchmarks.case import Case, Kind, Selection
from benchmarks.contenders import MODULES, Contender, available
from benchmarks.stopwatch import FinishedError
from benchmarks.worker import prepare

N_STEPS = 3
TOY = Case("topk", "autoencoder", d=16, n_latents=64, n_tokens=32, k=4, n_batches=1)
BASE = Case("topk", "autoencoder", d=512, n_latents=8192, n_tokens=2048, k=32, n_batches=1)


class Gauge:
    """Reads the peak memory of this process since the last reset."""

    def __init__(self, case: Case) -> None:
        self._cuda = case.on_cuda

    def now(self) -> int:
        return torch.cuda.memory_allocated() if self._cuda else _status("VmRSS")

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self._cuda else _status("VmHWM")

    def reset(self) -> None:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


@dataclass(frozen=True)
class Peak:
    """Peak memory in bytes, relative to the memory before the case.

    Attributes:
        made: Resident memory before the first step.
        peak: Largest resident memory during the steps.
        allocated: Largest memory of all tensors.
    """

    made: int
    peak: int
    allocated: int


def _batches(case: Case, gauge: Gauge, found: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    (batch,) = case.batches()
    found.append(gauge.now())
    gauge.reset()
    for _ in range(N_STEPS):
        yield batch
    found.append(gauge.peak())
    raise FinishedError


def _plain(case: Case) -> Iterator[tuple[Tensor, Tensor]]:
    (batch,) = case.batches()
    for _ in range(N_STEPS):
        yield batch
    raise FinishedError


def _serve(pipe: Connection, contender: Contender, case: Case, threads: int | None) -> None:
    prepare(threads)
    small = replace(TOY, selection=case.selection, kind=case.kind, device=case.device, n_layers=case.n_layers)
    with suppress(FinishedError):
        contender.library.train(small, _plain(small), contender.options)
    gauge, found = Gauge(case), list[int]()
    baseline = gauge.now()
    with suppress(FinishedError):
        contender.library.train(case, _batches(case, gauge, found), contender.options)
    made, peak = (value - baseline for value in found)
    pipe.send(Peak(made, peak, peak if case.on_cuda else _allocated(contender, case)))


def _allocated(contender: Contender, case: Case) -> int:
    """Returns the largest memory of the tensors of a run on a CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded, suppress(FinishedError):
        contender.library.train(case, _plain(case), contender.options)
    results = recorded.profiler
    assert results is not None
    assert results.kineto_results is not None
    events: list[Any] = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    sizes: list[int] = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(sizes))


def peak(contender: Contender, case: Case, threads: int | None, seconds: float) -> Peak | None:
    """Measures one contender. Returns ``None`` if it failed or exceeded the time limit."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, contender, case, threads), daemon=True)
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(seconds) else None
    except EOFError:
        return None
    finally:
        process.join(timeout=5)
        process.kill()
        process.join()


def cases(args: argparse.Namespace) -> list[Case]:
    """Returns cases with increasing numbers of latents, and cases with increasing numbers of tokens."""
    n_layers = args.n_layers if args.kind == "cross_layer" else 1
    parts = {"selection": cast(Selection, args.selection), "kind": cast(Kind, args.kind), "n_layers": n_layers}
    base = replace(BASE, **parts, d=args.d, k=args.k, device=args.device)
    over_latents = [replace(base, n_latents=n, n_tokens=args.n_tokens[0]) for n in args.n_latents]
    over_tokens = [replace(base, n_latents=args.n_latents[0], n_tokens=n) for n in args.n_tokens[1:]]
    return over_latents + over_tokens


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures every contender at every case."""
    found: list[dict[str, Any]] = []
    for case in cases(args):
        print(f"\n{case}: weights, gradients and Adam's state {16 * case.n_parameters() / 2**20:,.0f} MiB", flush=True)
        for contender in available(case, libraries=args.libraries):
            result = peak(contender, case, args.threads, args.seconds)
            shown = "failed"
            if result is not None:
                shown = f"{result.peak / 2**20:10,.0f} MiB resident, {result.allocated / 2**20:,.0f} MiB allocated"
            print(f"  {contender.label:40}{shown}", flush=True)
            if result is not None:
                entry = {"label": contender.label, "case": asdict(case), **asdict(result)}
                found.append({**entry, "adam_bytes": 16 * case.n_parameters()})
    return found


def table(results: list[dict[str, Any]]) -> str:
    """Lays out peaks in MiB, a column for each case."""
    shapes = list(dict.fromkeys((r["case"]["n_latents"], r["case"]["n_tokens"]) for r in results))
    floors = {(r["case"]["n_latents"], r["case"]["n_tokens"]): r["adam_bytes"] for r in results}
    rows = [["MiB", *(f"{n_latents:,} x {n_tokens:,}" for n_latents, n_tokens in shapes)]]
    rows.append(["4 x the weights", *(_mebibytes(floors[shape]) for shape in shapes)])
    titles = {"peak": "resident", "allocated": "tensors"}
    for field, title in titles.items():
        found = {(r["label"], r["case"]["n_latents"], r["case"]["n_tokens"]): r[field] for r in results}
        for label in dict.fromkeys(r["label"] for r in results):
            rows.append([f"{label}, {title}", *(_mebibytes(found.get((label, *shape))) for shape in shapes)])
    return "Peak memory of training, latents x tokens\n" + report.table(rows)


def _mebibytes(value: int | None) -> str:
    return "" if value is None else f"{value / 2**20:,.0f}"


def plot(results: list[dict[str, Any]], args: argparse.Namespace) -> Any:
    """Draws peaks over the number of latents and over the number of tokens."""
    figure, panels = report.figure(2, width=6)
    for panel, axis, fixed, value in (
        (panels[0], "n_latents", "n_tokens", args.n_tokens[0]),
        (panels[1], "n_tokens", "n_latents", args.n_latents[0]),
    ):
        chosen = [r for r in results if r["case"][fixed] == value]
        for label in dict.fromkeys(r["label"] for r in chosen):
            line = sorted((r["case"][axis], r["peak"] / 2**30) for r in chosen if r["label"] == label)
            style = "-" if "," not in label else "--" if "dense" in label or "Adam" in label else ":"
            panel.plot(*zip(*line, strict=True), style, marker="o", color=report.colour(label), label=label)
        floor = sorted({(r["case"][axis], r["adam_bytes"] / 2**30) for r in chosen})
        panel.plot(*zip(*floor, strict=True), color="0.6", label="weights, gradients, Adam's state")
        panel.set(xscale="log", yscale="log", xlabel=axis, ylabel="peak, GiB", title=f"{fixed} {value:,}")
    panels[1].legend(fontsize=7)
    return figure


def main(argv: list[str] | None = None) -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--selection", choices=["topk", "batch_topk", "relu", "jumprelu"], default="topk")
    parser.add_argument("--kind", choices=get_args(Kind), default="autoencoder")
    parser.add_argument("--n-layers", type=int, default=4, help="layers of the kind cross_layer; sizes are per layer")
    parser.add_argument(
        "--libraries", nargs="+", choices=MODULES, default=None, help="libraries to compare (default: all installed)"
    )
    parser.add_argument("--d", type=int, default=512, help="width of inputs and outputs")
    parser.add_argument("--k", type=int, default=32, help="active latents per token")
    parser.add_argument(
        "--n-latents",
        type=int,
        nargs="+",
        default=[8192, 2048, 32768],
        help="latents; the first value is combined with all --n-tokens",
    )
    parser.add_argument(
        "--n-tokens",
        type=int,
        nargs="+",
        default=[2048, 1024, 4096, 8192],
        help="tokens per step; the first value is combined with all --n-latents",
    )
    parser.add_argument("--seconds", type=float, default=180, help="time limit of one contender in one case")
    args = parser.parse_args(argv)
    results = measure(args)
    name = args.name or ("memory" if args.device == "cpu" else "memory-cuda")
    report.save_plot(plot(results, args), args.out, name)
    report.write(
        name, args.out, {"machine": report.machine(args.threads, args.device), "results": results}, table(results)
    )


if __name__ == "__main__":
    main()
