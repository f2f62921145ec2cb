"""Kills random ranks of training runs at random moments, and resumes the runs.

    python -m benchmarks.parallel_kills

Each run trains on gloo ranks of this machine and writes a checkpoint every few steps. A random rank receives SIGKILL,
SIGTERM or SIGINT, a random time after it began a random step. Verified are, for each kill:

- all ranks end within the limit of time;
- the errors of the other ranks name the killed rank, or all ranks stop after a common checkpoint;
- the newest checkpoint from before the signal, or a later one, can be read;
- the resumed run has the same bits as an undisturbed one.

A signal that arrives after the last step is no kill. The results are added to those of earlier calls until each
form has the requested number of kills, so a long measurement can be divided.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from benchmarks.report import RESULTS, machine, table
from sparsedict import AuxK, BatchTopK, ForwardPass, Loss, RankError, SparseAutoencoder, SquaredError, UnitNorm, fit
from sparsedict.parallel import DataParallel, Parallel
from sparsedict.training import ShardedLatents

SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT")
FORMS: dict[str, tuple[int, Callable[[timedelta], Parallel]]] = {
    "data": (2, lambda timeout: DataParallel(timeout=timeout)),
    "latents": (2, lambda timeout: ShardedLatents(timeout=timeout)),
    "mesh": (4, lambda timeout: ShardedLatents(_mesh(), timeout=timeout)),
}
"""Number of ranks and construction of each form."""

D, N_LATENTS, BATCH, N_STEPS, EVERY = 16, 128, 64, 20, 2
LONGEST = 0.1
"""Largest number of seconds from the begin of a step to the signal."""

TIMEOUT = timedelta(seconds=20)
LIMIT = 60.0
"""Seconds in which all ranks must end after a signal."""


@dataclass(frozen=True)
class Kill:
    """The outcome of a kill.

    Attributes:
        form: Name of the form of the run.
        signal: Name of the signal.
        rank: The rank that received it.
        step: The step that the rank had begun, from 0.
        delay: Seconds from the begin of the step to the signal.
        seconds: Seconds from the signal to the end of the last rank.
        step_before: Step of the newest checkpoint before the signal.
        step_after: Step of the newest checkpoint after the end of all ranks.
        outcomes: How each rank ended.
        failures: Violated conditions; empty if all hold.
    """

    form: str
    signal: str
    rank: int
    step: int
    delay: float
    seconds: float
    step_before: int
    step_after: int
    outcomes: tuple[str, ...]
    failures: tuple[str, ...]


def _mesh() -> Any:
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "latents"))


class Reporting(Loss):
    """A squared error that reports the step of its rank, which it doesn't change."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self, out: ForwardPass) -> torch.Tensor:
        Path(f"{self.file}-{out.step}").touch()
        return SquaredError()(out)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def train(rank: int, form: str, folder: Path, port: int) -> None:
    """Trains on one rank, and writes how it ended."""
    n_ranks, make = FORMS[form]
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=n_ranks, timeout=TIMEOUT)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH * 8, D, generator=generator)
    parts = {"activation": BatchTopK(8), "decoder_norm": UnitNorm(), "generator": generator}
    sae = SparseAutoencoder(D, N_LATENTS, **parts)
    outcome: dict[str, Any] = {"ended": "finished"}
    try:
        parallel = make(TIMEOUT)
        run: dict[str, Any] = {"n_tokens": BATCH * N_STEPS, "batch_size": BATCH, "progress": False}
        how: dict[str, Any] = {"checkpoint": folder / "run", "checkpoint_every": EVERY, "resume": True}
        loss = Reporting(folder / f"step{rank}")
        fit(sae, x, parallel=parallel, loss=loss, penalties=[AuxK(dead_after=200)], **run, **how)
        if parallel.is_main:
            torch.save(sae.state_dict(), folder / "weights.pt")
    except RankError as error:
        outcome = {"ended": "RankError", "ranks": error.ranks, "text": str(error)}
    except BaseException as error:
        outcome = {"ended": type(error).__name__, "text": str(error)}
    (folder / f"{rank}.json").write_text(json.dumps(outcome), encoding="utf-8")


def warm_up() -> None:
    """Trains in this process, so that forked ranks have all modules that are imported at first use."""
    x = torch.randn(64, D)
    sae = SparseAutoencoder(D, 32, activation=BatchTopK(4), decoder_norm=UnitNorm())
    with tempfile.TemporaryDirectory() as folder:
        fit(sae, x, n_tokens=64, batch_size=32, progress=False, checkpoint=folder)


def start(form: str, folder: Path) -> list[int]:
    """Starts all ranks. Returns their process ids."""
    for file in (*folder.glob("step*"), *folder.glob("*.json")):
        file.unlink()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [_fork(rank, form, folder, port) for rank in range(FORMS[form][0])]


def _fork(rank: int, form: str, folder: Path, port: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        # A rank ends even if this process is killed.
        signal.alarm(int(4 * LIMIT))
        output = os.open(folder / f"output{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        train(rank, form, folder, port)
    finally:
        os._exit(0)


def wait(children: list[int], seconds: float) -> bool:
    """Waits for all processes. Kills those that are left after the limit, and returns whether there were none."""
    left, end = set(children), time.monotonic() + seconds
    while left and time.monotonic() < end:
        left = {child for child in left if os.waitpid(child, os.WNOHANG)[0] == 0}
        time.sleep(0.005)
    for child in left:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return not left


def newest(folder: Path) -> int:
    """Returns the step of the newest checkpoint; -1 if there is none."""
    return max((int(path.name[5:]) for path in (folder / "run").glob("step-*")), default=-1)


def outcome_of(folder: Path, rank: int) -> dict[str, Any]:
    path = folder / f"{rank}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"ended": "killed"}


def kill(form: str, reference: dict[str, torch.Tensor], generator: random.Random) -> Kill:
    """Starts a run, sends a signal, and resumes the run."""
    name, rank = generator.choice(SIGNALS), generator.randrange(FORMS[form][0])
    step, delay = generator.randrange(N_STEPS), generator.uniform(0.0, LONGEST)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        children = start(form, folder)
        await_step(folder, rank, step)
        time.sleep(delay)
        before = newest(folder)
        with suppress(ProcessLookupError):
            os.kill(children[rank], getattr(signal, name))
        begin = time.monotonic()
        has_ended = wait(children, LIMIT)
        ended = time.monotonic() - begin
        after, outcomes = newest(folder), [outcome_of(folder, other) for other in range(FORMS[form][0])]
        failures = [] if has_ended else [f"a rank didn't end within {LIMIT} s"]
        failures += ["a checkpoint was lost"] if after < before else []
        failures += [text for other, found in enumerate(outcomes) if (text := _unexpected(found, other, rank))]
        if not wait(start(form, folder), 2 * LIMIT) or outcome_of(folder, 0)["ended"] != "finished":
            failures.append(f"the resumed run ended with {outcome_of(folder, 0)}")
        else:
            found = torch.load(folder / "weights.pt")
            differing = [name for name, value in reference.items() if not torch.equal(value, found[name])]
            failures += [f"`{differing[0]}` differs after the resumed run"] if differing else []
    ends = tuple(found["ended"] for found in outcomes)
    return Kill(form, name, rank, step, round(delay, 3), round(ended, 3), before, after, ends, tuple(failures))


def _unexpected(found: dict[str, Any], rank: int, killed: int) -> str:
    """Returns what is wrong with the end of a rank."""
    if rank == killed or found["ended"] in ("finished", "Terminated", "KeyboardInterrupt"):
        return ""
    if found["ended"] == "RankError" and killed in found["ranks"]:
        return ""
    return f"rank {rank} ended with {found}, but rank {killed} was killed"


def await_step(folder: Path, rank: int, step: int) -> None:
    """Waits until a rank has begun a step."""
    end = time.monotonic() + LIMIT
    while not (folder / f"step{rank}-{step}").exists():
        if time.monotonic() > end:
            raise RuntimeError(f"Rank {rank} took too long: {(folder / f'output{rank}').read_text()[-2000:]}")
        time.sleep(0.002)


def undisturbed(form: str) -> dict[str, torch.Tensor]:
    """Returns the weights of a whole run."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if not wait(start(form, folder), 2 * LIMIT):
            raise RuntimeError(f"The undisturbed run took too long: {(folder / 'output0').read_text()[-2000:]}")
        if outcome_of(folder, 0)["ended"] != "finished":
            raise RuntimeError(f"The undisturbed run failed: {outcome_of(folder, 0)}")
        return torch.load(folder / "weights.pt")


def is_during_training(kill: dict[str, Any]) -> bool:
    """Returns whether a signal arrived before the last step."""
    return kill["step_before"] < N_STEPS and set(kill["outcomes"]) != {"finished"}


def summary(kills: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Returns a table of the kills by form and signal."""
    rows = [("form", "signal", "kills", "after the last step", "failures", "longest seconds to the end")]
    for form, name in sorted({(own["form"], own["signal"]) for own in kills}):
        own = [one for one in kills if (one["form"], one["signal"]) == (form, name)]
        failed, longest = sum(bool(one["failures"]) for one in own), max(one["seconds"] for one in own)
        during = sum(map(is_during_training, own))
        rows.append((form, name, str(during), str(len(own) - during), str(failed), f"{longest:.1f}"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["data", "latents"], help="default: data latents")
    parser.add_argument("--kills", type=int, default=10, help="kills of each form during its run (default: 10)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no kill after this time")
    parser.add_argument("--seed", type=int, default=0, help="seed of signals, ranks and moments (default: 0)")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"folder of the JSON file (default: {RESULTS})")
    args = parser.parse_args()
    file = args.out / "parallel_kills.json"
    kills: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["kills"] if file.exists() else []
    warm_up()
    end = time.monotonic() + args.seconds
    for form in args.forms:
        own = [one for one in kills if one["form"] == form]
        reference = undisturbed(form) if sum(map(is_during_training, own)) < args.kills else {}
        while sum(map(is_during_training, own)) < args.kills and time.monotonic() < end:
            # Each kill has its own generator, so that a later call continues with other moments.
            own.append(asdict(kill(form, reference, random.Random(f"{args.seed} {form} {len(own)}"))))
            kills.append(own[-1])
            print(own[-1], flush=True)
            content = {"machine": machine(None, "cpu"), "kills": kills}
            args.out.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(table(summary(kills)))


if __name__ == "__main__":
    main()
