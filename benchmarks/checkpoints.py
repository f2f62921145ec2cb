"""Cost of checkpoints: ``python -m benchmarks.checkpoints``.

Writes and reads checkpoints of an autoencoder, alternately with a plain synchronised file of the same size, and prints
seconds and ratios. Then trains a small autoencoder alternately with a checkpoint folder, in which no checkpoint is due,
and without one, and prints the additional time per step.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

import sparsedict as sd
from sparsedict.storage import read_checkpoint

LONG = timedelta(days=1)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


class Clock(sd.training.StepHook):
    """Records the time of each step."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def __call__(self, out: sd.ForwardPass, optimizer: torch.optim.Optimizer) -> None:
        self.moments.append(time.perf_counter())


def write_plain(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def writing(d: int, n_latents: int, rounds: int) -> None:
    """Measures the checkpoints of `fit`, one after each step, without the time of the steps."""
    data = torch.randn(64 * (rounds + 1), d)

    def fit(folder: Path | None) -> list[float]:
        sae = sd.SparseAutoencoder(d, n_latents, activation=sd.TopK(32), decoder_norm=sd.UnitNorm())
        with torch.no_grad():
            sae.encoder *= 0.5  # so that `fit` doesn't initialise the weights from data
        clock = Clock()
        run = {"n_tokens": len(data), "batch_size": 64, "log_every": 10**6, "progress": False}
        checkpoints: dict[str, Any] = {} if folder is None else {"checkpoint": folder, "checkpoint_every": 1}
        sd.fit(sae, data, step_hooks=[clock], **run, **checkpoints)
        return [later - earlier for earlier, later in pairwise(clock.moments)]

    with tempfile.TemporaryDirectory() as name:
        bare = median(fit(None))
        taken = [step - bare for step in fit(Path(name) / "run")]
        newest = max((Path(name) / "run").glob("step-*"))
        size = sum(file.stat().st_size for file in newest.iterdir())
        # Between records, a checkpoint contains two sets of weights: the current and the last finite ones.
        content = os.urandom(size)
        plain = [seconds(lambda index=i: write_plain(Path(name) / f"plain {index}", content)) for i in range(rounds)]
        reads = [seconds(lambda: read_checkpoint(newest)) for _ in range(rounds)]
    weights = 2 * d * n_latents * 4 / 2**20
    print(f"weights {weights:.0f} MiB, checkpoint {size / 2**20:.0f} MiB, time of a write {median(taken):.2f} s")
    print(f"plain file of the same size: synchronised write {median(plain):.2f} s, read {median(reads):.2f} s")
    print(f"checkpoint / plain file {median(taken) / median(plain):.2f}")


def steps(rounds: int) -> None:
    """Measures steps by the difference of a long and a short run, which both write a first and a last checkpoint."""
    data = torch.randn(20_000, 64)

    def run(n_steps: int, folder: Path | None) -> float:
        sae = sd.SparseAutoencoder(64, 256, activation=sd.TopK(8), decoder_norm=sd.UnitNorm())
        size = {"n_tokens": 128 * n_steps, "batch_size": 128, "log_every": 10**6, "progress": False}
        start = time.process_time()
        checkpoints: dict[str, Any] = {} if folder is None else {"checkpoint": folder, "checkpoint_every": LONG}
        sd.fit(sae, data, **size, **checkpoints)
        return time.process_time() - start

    def step(with_checkpoints: bool) -> float:
        with tempfile.TemporaryDirectory() as name:
            short, long = (Path(name) / "short", Path(name) / "long") if with_checkpoints else (None, None)
            return (run(1200, long) - run(200, short)) / 1000

    ratios = [step(with_checkpoints=True) / step(with_checkpoints=False) for _ in range(rounds)]
    print(f"processor time of a small step, with checkpoints / without: {median(ratios):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=512, help="width of inputs")
    parser.add_argument("--n-latents", type=int, default=16_384, help="number of latents")
    parser.add_argument("--rounds", type=int, default=7, help="number of measurements")
    args = parser.parse_args()
    torch.manual_seed(0)
    writing(args.d, args.n_latents, args.rounds)
    steps(args.rounds)


if __name__ == "__main__":
    main()
