"""Robustness of runs against SIGKILL: ``python -m benchmarks.kills``.

Small runs are killed repeatedly and resumed until they end. Half of the kills are at a random moment, and half are
during the write of a checkpoint. Each run must then equal the same run without kills bit for bit: in its weights, its
histories (except times) and the state of the random generators. No kill may remove an existing checkpoint.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import json
import multiprocessing
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparsedict as sd

RESULTS = Path(__file__).parent / "results" / "kills.json"
D, N_LATENTS, BATCH, N_STEPS = 16, 64, 128, 60

MAX_KILLS = 10
"""In one run, so that all kinds of runs are killed."""

FORK = multiprocessing.get_context("fork")
"""Children begin with everything imported: a life lasts about a second."""


def rows(seed: int = 0, n: int = 2000) -> Tensor:
    return sd.data.SyntheticFeatures(D, 32, 3.0, seed=0).sample(n, seed)[0].inputs


def sae(activation: sd.Activation, seed: int = 0) -> sd.SparseAutoencoder:
    generator = torch.Generator().manual_seed(seed)
    return sd.SparseAutoencoder(D, N_LATENTS, activation=activation, decoder_norm=sd.UnitNorm(), generator=generator)


def distiller(activation: sd.Activation) -> sd.SparseDistiller:
    generator = torch.Generator().manual_seed(0)
    return sd.SparseDistiller(D, D, N_LATENTS, activation=activation, decoder_norm=sd.MaxNorm(), generator=generator)


class Noise(sd.Penalty):
    """Draws from PyTorch's global generator."""

    def __call__(self, out: sd.ForwardPass) -> Tensor:
        return out.values.abs().sum() / out.n_tokens * torch.rand(()) * 0.01


def of_a_tensor() -> tuple[dict[str, sd.Trainee], Any]:
    penalties = [sd.AuxK(dead_after=500, coefficient=1.0), Noise()]
    return {"": sd.Trainee(sae(sd.BatchTopK(4)), penalties=penalties, lr=1e-2)}, rows()


def of_a_pair() -> tuple[dict[str, sd.Trainee], Any]:
    step_hooks = [sd.Resample(every=7, dead_after=500)]
    optimizer = functools.partial(torch.optim.SGD, momentum=0.9)
    transcoder = distiller(sd.ReLU())
    return {"": sd.Trainee(transcoder, penalties=[sd.L1(0.02)], step_hooks=step_hooks, optimizer=optimizer)}, (
        rows(),
        rows().relu(),
    )


def of_two_sites() -> tuple[dict[str, sd.Trainee], Any]:
    torch.manual_seed(0)
    mlps = [nn.Sequential(nn.Linear(D, 32), nn.ReLU(), nn.Linear(32, D)) for _ in range(2)]
    model = nn.Sequential(nn.Embedding(50, D), *mlps)
    sites = {"first": sd.Site(model, "1"), "second": sd.Site(model, "2")}
    tokens = torch.randint(50, (100, 32), generator=torch.Generator().manual_seed(1))
    stream = sd.ActivationStream(sites, tokens, batch_size=BATCH, buffer_size=600)
    trainees = {
        "transcoder": sd.Trainee(distiller(sd.TopK(4)), site="first", lr=1e-2),
        "sae": sd.Trainee(
            sae(sd.JumpReLU(threshold=0.01, bandwidth=0.1)),
            site="second",
            penalties=[sd.L0(0.01)],
            optimizer=torch.optim.AdamW,
        ),
    }
    return trainees, stream


def of_a_generator() -> tuple[dict[str, sd.Trainee], Any]:
    return {"": sd.Trainee(sae(sd.TopK(4)))}, (rows(seed, BATCH) for seed in range(N_STEPS))


RUNS: tuple[Callable[[], tuple[dict[str, sd.Trainee], Any]], ...] = (
    of_a_tensor,
    of_a_pair,
    of_two_sites,
    of_a_generator,
)


def live(
    make: Callable[[], tuple[dict[str, sd.Trainee], Any]], folder: Path | None, every: int, end: Connection
) -> None:
    """Trains from the newest checkpoint to the end, and sends a digest of the result."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    trainees, data = make()
    size = {} if make in (of_two_sites, of_a_generator) else {"batch_size": BATCH}
    histories = sd.fit_many(
        trainees,
        data,
        n_tokens=N_STEPS * BATCH,
        log_every=10,
        dead_after=1000,
        progress=False,
        checkpoint=folder,
        checkpoint_every=None if folder is None else every,
        resume=folder is not None,
        **size,
    )
    end.send(digest(trainees, histories))


def digest(trainees: dict[str, sd.Trainee], histories: dict[str, sd.History]) -> str:
    found = hashlib.sha256()
    for name, trainee in trainees.items():
        for key, tensor in trainee.dictionary.state_dict().items():
            found.update(f"{name} {key} {tensor.dtype}".encode())
            found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        plain = histories[name].to_dict()
        for record in (plain, *plain["records"]):
            del record["seconds"]
        found.update(json.dumps(plain).encode())
    found.update(json.dumps(torch.rand(8).tolist()).encode())
    return found.hexdigest()


def born(make: Callable[[], Any], folder: Path | None, every: int) -> tuple[BaseProcess, Connection]:
    receive, send = FORK.Pipe(duplex=False)
    process = FORK.Process(target=live, args=(make, folder, every, send))
    process.start()
    send.close()
    return process, receive


def result(process: BaseProcess, receive: Connection) -> str | None:
    """Waits for the end of the process. Returns None if there is no result."""
    process.join()
    try:
        return receive.recv() if receive.poll() else None
    except EOFError:
        return None


def being_written(folder: Path) -> bool:
    return any(folder.glob(".step-*.writing"))


def newest(folder: Path) -> int:
    return max((int(item.name[5:]) for item in folder.glob("step-*")), default=-1)


def moments(draw: random.Random, longest: float) -> Iterator[Callable[[Path, BaseProcess], None]]:
    """Yields ways to wait for the moment of a kill."""

    def at_random(folder: Path, process: BaseProcess) -> None:
        process.join(draw.uniform(0.0, longest))

    def in_a_write(folder: Path, process: BaseProcess) -> None:
        process.join(draw.uniform(0.0, longest / 2))
        while process.is_alive() and not being_written(folder):
            time.sleep(0.0005)
        time.sleep(draw.uniform(0.0, 0.004))

    while True:
        yield at_random
        yield in_a_write


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="number of kills (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of kills (default: 0)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file of the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)], lr=1.0)  # the first optimiser imports half of PyTorch
    draw = random.Random(args.seed)
    begin = time.perf_counter()
    alone, waits = {}, {}
    for make in RUNS:
        started = time.perf_counter()
        alone[make] = result(*born(make, None, 1))
        seconds = time.perf_counter() - started
        waits[make] = moments(draw, longest=2 * seconds)
        print(f"{make.__name__}: {seconds:.1f} s without kills", flush=True)
    counts = dict.fromkeys(("kills", "kills_in_a_write", "resumes", "runs", "equal_runs", "lost_checkpoints"), 0)
    for make in itertools.cycle(RUNS):
        if counts["kills"] >= args.kills:
            break
        one_run(make, alone[make], args.kills, waits[make], draw, counts)
    counts["seconds"] = round(time.perf_counter() - begin)
    counts["torch"] = torch.__version__
    print(", ".join(f"{name} {value}" for name, value in counts.items()))
    args.out.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    return int(counts["equal_runs"] < counts["runs"] or counts["lost_checkpoints"] > 0)


def one_run(
    make: Callable[[], Any],
    wanted: str | None,
    n_kills: int,
    waits: Iterator[Callable[[Path, BaseProcess], None]],
    draw: random.Random,
    counts: dict[str, Any],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoints"
        before, found = -1, None
        for n_lives in range(MAX_KILLS + 1):
            process, receive = born(make, folder, every=draw.choice((1, 1, 2, 5)))
            counts["resumes"] += n_lives > 0
            if counts["kills"] < n_kills and n_lives < MAX_KILLS:
                next(waits)(folder, process)
                process.kill()
            found = result(process, receive)
            after = newest(folder) if folder.exists() else -1
            counts["lost_checkpoints"] += after < before
            before = after
            if process.exitcode == 0:
                break
            if process.exitcode != -9:
                raise RuntimeError(f"{make.__name__} failed without a kill, with status {process.exitcode}.")
            counts["kills"] += 1
            counts["kills_in_a_write"] += folder.exists() and being_written(folder)
        counts["runs"] += 1
        counts["equal_runs"] += found == wanted
        print(f"{make.__name__}: {n_lives} kills, {'equal' if found == wanted else 'NOT EQUAL'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
