"""Cost of whole training runs, from the start, relative to the encoder's product: ``python -m benchmarks.live``.

Each contender trains 400 steps in its own loop with its usual settings on the same synthetic features, and the FVU on
held-out tokens is measured. ``benchmarks.step`` measures steps of weights that don't change; here thresholds move,
latents die and are revived, and the initialisation counts.

The unit is the encoder's float32 product of a batch into a reused buffer. It is measured in the same run, after every
20 steps, so the cost of a run is in products. All times are processor times of one thread. The contenders take turns,
one run each per round. A finished run is stored, and the same command continues with the next.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import sparsedict as sd
from benchmarks.quality._data import Data
from benchmarks.quality._measure import reconstruction
from benchmarks.quality._task import Contender, Kind, Task
from benchmarks.quality.contenders import all_contenders
from benchmarks.quality.contenders._ours import Recipe
from benchmarks.report import RESULTS, machine, table
from sparsedict.data.synthetic import PowerLaw, SyntheticFeatures

N_STEPS = 400
BLOCK = 20
"""Steps between two measurements of the product."""
N_DISTINCT, N_HELD_OUT = 100_000, 8192


@dataclass(frozen=True)
class Shape:
    """A size of the comparison. The data has four features per dimension, of which ``k`` are active on average."""

    d: int
    n_latents: int
    batch_size: int
    k: int = 32


SHAPES = {
    "wide": Shape(512, 8192, 2048),
    "middle": Shape(256, 4096, 1024),
    "demo": Shape(128, 2048, 512),
    "toy": Shape(16, 64, 64, 4),
}
RELU = {
    "ReLU, L1(0.05), Adam": Recipe(lambda k: sd.ReLU(), {"penalties": [sd.L1(0.05)]}, kinds=("autoencoder",)),
    "ReLU, L1(1), Adam": Recipe(lambda k: sd.ReLU(), {"penalties": [sd.L1(1.0)]}, kinds=("autoencoder",)),
}


@dataclass
class Stopwatch:
    """Processor times of the steps of a run, in blocks, and of the products between them.

    Attributes:
        shape: The shape of the product.
        blocks: Seconds of each whole block of steps.
        products: Seconds of a product after each block.
    """

    shape: Shape
    blocks: list[float] = field(default_factory=list)
    products: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._inputs = torch.randn(self.shape.batch_size, self.shape.d)
        self._rows = torch.randn(self.shape.n_latents, self.shape.d)
        self._out = torch.mm(self._inputs, self._rows.T)
        self._n_steps, self._begin = 0, time.process_time()

    def tick(self) -> None:
        """Ends a step."""
        self._n_steps += 1
        if self._n_steps % BLOCK:
            return
        self.blocks.append(time.process_time() - self._begin)
        begin = time.process_time()
        torch.mm(self._inputs, self._rows.T, out=self._out)
        self._begin = time.process_time()
        self.products.append(self._begin - begin)

    def costs(self) -> list[float]:
        """Returns the products per step of each block."""
        unit = median(self.products)
        return [seconds / BLOCK / unit for seconds in self.blocks]


@dataclass(frozen=True, eq=False)
class Ticks(sd.training.StepHook):
    """Ends a step of `fit`."""

    stopwatch: Stopwatch

    def __call__(self, out: sd.ForwardPass, optimizer: torch.optim.Optimizer) -> None:
        self.stopwatch.tick()


@dataclass(frozen=True)
class TimedData(Data):
    """Activations whose batches end the steps of other libraries."""

    stopwatch: Stopwatch | None = None

    def batches(self, kind: str, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        for index, batch in enumerate(super().batches(kind, batch_size, seed)):
            if index and self.stopwatch is not None:
                self.stopwatch.tick()
            yield batch


def load(shape: Shape, folder: Path) -> TimedData:
    """Returns the activations of a shape, which are computed once and stored in a folder."""
    path = folder / f"live-{shape.d}-{shape.k}-{N_DISTINCT}.pt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        truth = SyntheticFeatures(shape.d, 4 * shape.d, shape.k, 0, frequencies=PowerLaw(0.6))
        parts = [truth.sample(4096, seed=i)[0].outputs for i in range(-(-(N_DISTINCT + N_HELD_OUT) // 4096))]
        torch.save(torch.cat(parts)[: N_DISTINCT + N_HELD_OUT].clone(), path)
    rows = torch.load(path, mmap=True)
    rows = rows / rows[:N_HELD_OUT].var(0).mean().sqrt()
    train, held_out = rows.split((N_DISTINCT, N_HELD_OUT))
    return TimedData(train, train, held_out, held_out, (1.0, 1.0), None, None, None)


def measure(contender: Contender, shape: Shape, data: TimedData, seed: int, n_steps: int) -> dict[str, Any]:
    """Runs a contender. Returns its costs, the FVU and L0."""
    batch_size = shape.batch_size
    task = Task("autoencoder", shape.n_latents, shape.k, n_steps * batch_size, seed, batch_size=batch_size)
    contender.train(replace(task, n_tokens=2 * batch_size), data)  # imports the library
    stopwatch = Stopwatch(shape)
    if isinstance(contender, Recipe):
        hooks = [*contender.options.get("step_hooks", ()), Ticks(stopwatch)]
        trained = replace(contender, options={**contender.options, "step_hooks": hooks}).train(task, data)
    else:
        trained = contender.train(task, replace(data, stopwatch=stopwatch))
    with torch.no_grad():
        found = reconstruction(trained, task, data)
    return {"costs": [round(cost, 3) for cost in stopwatch.costs()], "product": median(stopwatch.products), **found}


def summary(rows: list[dict[str, Any]], n_steps: int) -> str:
    """Returns a table for each shape: products per step of the run and of some blocks, median over rounds."""
    parts = []
    for name in dict.fromkeys(row["shape"] for row in rows):
        shape = SHAPES[name]
        own = [row for row in rows if row["shape"] == name and row["n_steps"] == n_steps]
        shown = [index for index in (0, 2, 5, 9, 14, 18) if all(len(row["costs"]) > index for row in own)]
        heading = ["", "runs", "whole run", *(f"from step {BLOCK * index}" for index in shown), "L0", "FVU"]
        lines = [heading]
        for label in dict.fromkeys(row["contender"] for row in own):
            runs = [row for row in own if row["contender"] == label]
            whole = median(sum(row["costs"]) / len(row["costs"]) for row in runs)
            blocks = [f"{median(row['costs'][index] for row in runs):.2f}" for index in shown]
            ends = [f"{median(row[column] for row in runs):{form}}" for column, form in (("l0", ".1f"), ("fvu", ".4f"))]
            lines.append([label, str(len(runs)), f"{whole:.2f}", *blocks, *ends])
        product = 1000 * median(row["product"] for row in own)
        title = f"d {shape.d}, {shape.n_latents:,} latents, {shape.batch_size:,} tokens, k {shape.k}"
        parts.append(f"{title}: products per step, a product takes {product:.1f} ms\n{table(lines)}")
    return "\n\n".join(parts)


def main(argv: list[str] | None = None) -> None:
    contenders: dict[str, Contender] = {**all_contenders(), **RELU}
    kind: Kind = "autoencoder"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["wide", "middle", "demo"])
    known = [name for name, own in contenders.items() if own.can_train(kind, "synthetic")]
    parser.add_argument("--contenders", nargs="+", choices=known, default=known, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (default: 3)")
    parser.add_argument("--steps", type=int, default=N_STEPS, help=f"steps of a run (default: {N_STEPS})")
    parser.add_argument("--max-minutes", type=float, default=float("inf"), help="start no run after this time")
    parser.add_argument("--store", type=Path, default=Path("quality-store"), help="folder of the activations")
    parser.add_argument("--out", type=Path, default=RESULTS / "live.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    end, n_left = time.monotonic() + 60 * args.max_minutes, 0
    for name in args.shapes:
        data = load(SHAPES[name], args.store)
        for seed in range(args.rounds):
            for label in args.contenders:
                cell = {"shape": name, "contender": label, "seed": seed, "n_steps": args.steps}
                if any(all(row[key] == value for key, value in cell.items()) for row in rows):
                    continue
                if time.monotonic() > end:
                    n_left += 1
                    continue
                rows.append({**cell, **measure(contenders[label], SHAPES[name], data, seed, args.steps)})
                content = {"machine": machine(1, "cpu"), "rows": rows}
                args.out.write_text(json.dumps(content, indent=None) + "\n", encoding="utf-8")
                print(f"{name}, {label}, seed {seed}: {rows[-1]}", flush=True)
    text = summary(rows, args.steps)
    print(text + (f"\n\n{n_left} runs are left. Run the same command again." if n_left else ""))
    args.out.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
