"""Ranks that are killed: the others end with an error that names the rank, and the run resumes from its checkpoint."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

import sparsedict as sd
from parallel._cases import N_STREAMED, Counting, Signalling, data_of, new, stream_of, train
from ranks import run_ranks
from sparsedict.parallel import Alone, DataParallel
from sparsedict.training import exit_on_signal

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="the ranks are forked")]

N_RANKS = 4
TIMEOUT = timedelta(seconds=30)
LIMIT = 60.0


class KilledModel(Counting):
    """A model that kills its process after some tokens."""

    def __init__(self, rank: int, n_positions: int) -> None:
        super().__init__()
        self.end = n_positions if dist.get_rank() == rank else -1

    def forward(self, tokens: Tensor) -> Tensor:
        if 0 <= self.end < self.n_positions:
            kill()
        return super().forward(tokens)


class SignalledModel(Counting):
    """A model that sends its process SIGTERM after some tokens, on the last rank."""

    def forward(self, tokens: Tensor) -> Tensor:
        if dist.get_rank() == N_RANKS - 1 and self.n_positions > 220:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(tokens)


class Killing(Signalling):
    """A squared error that kills its process at a step."""

    def __call__(self, out: sd.ForwardPass) -> Tensor:
        if out.step == self.step:
            kill()
        return sd.SquaredError()(out)


def kill() -> None:
    """Kills this process. A moment later the others receive SIGTERM, which ``torchrun`` sends them."""
    pids = [int(file.read_text()) for file in Path(os.environ["PIDS"]).glob("pid*")]
    own = os.getpid()
    if os.fork() == 0:
        time.sleep(0.15)
        for pid in pids:
            if pid != own:
                os.kill(pid, signal.SIGTERM)
        os._exit(0)
    os.kill(own, signal.SIGKILL)


def harvested(folder: Path, killed: int, model: Callable[[], Counting] | None = None) -> Any:
    """Trains on two ranks, and runs the model on two others."""
    make = model or (lambda: KilledModel(killed, 220))
    ranks = sd.data.HarvestRanks(2, timeout=TIMEOUT)
    options: dict[str, Any] = {"checkpoint": folder / "run", "checkpoint_every": 2, "resume": True}
    options["n_tokens"] = N_STREAMED

    def fit(data: Any) -> Any:
        parallel = DataParallel(ranks.group, timeout=TIMEOUT)
        options["loss"] = Killing(6 if parallel.rank == killed else -1)
        return train(new(), data, parallel, **options)

    # The model runs ahead by the 200 tokens of the buffer, and each rank computes half: about four steps.
    return ranks.run(lambda: stream_of(make()), fit)


def on_a_mesh(folder: Path, killed: int) -> Any:
    """Trains on a mesh of data x latents."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "latents"))
    parallel = sd.ShardedLatents(mesh, timeout=TIMEOUT)
    loss = Killing(5 if parallel.rank == killed else -1)
    options: dict[str, Any] = {"checkpoint": folder / "run", "checkpoint_every": 2, "resume": True}
    return train(new(), data_of("distiller", new()), parallel, loss=loss, **options)


def signalled(folder: Path, killed: int) -> Any:
    """Trains on two ranks. A signal to a rank that runs the model stops all of them."""
    signal.signal(signal.SIGTERM, exit_on_signal)
    return harvested(folder, killed, SignalledModel)


RUNS = {"harvest": harvested, "mesh": on_a_mesh, "signal": signalled}


def run_rank(rank: int, n_ranks: int, folder: Path, *, name: str, killed: int) -> None:
    """Runs on one rank, and writes the error or the weights."""
    attempt = f"{'resumed' if killed < 0 else 'killed'}"
    os.environ["PIDS"] = str(folder)
    (folder / f"pid{rank}").write_text(str(os.getpid()))
    address = f"file://{folder}/{attempt}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=n_ranks, timeout=TIMEOUT)
    dist.barrier()
    found: Any = None
    try:
        found = RUNS[name](folder, killed)
    except sd.RankError as error:
        (folder / f"error{rank}.json").write_text(json.dumps([str(error), error.ranks]))
    except sd.training.Terminated as error:
        (folder / f"error{rank}.json").write_text(json.dumps([str(error), None]))
    if killed < 0 and found is not None:
        torch.save(found["weights"], folder / f"weights{rank}.pt")


@pytest.mark.parametrize(
    ("name", "killed"), [("harvest", 3), ("harvest", 0), ("mesh", 2)], ids=["model", "training", "mesh"]
)
def test_a_killed_rank_is_named_and_the_run_resumes(name: str, killed: int, tmp_path: Path) -> None:
    # The forked ranks have the modules, and the functions with checks, that this process makes at first use.
    whole = whole_run(name)
    begin = time.monotonic()
    run_ranks(N_RANKS, partial(run_rank, name=name, killed=killed), tmp_path, limit=LIMIT, killed=[killed])
    assert time.monotonic() - begin < TIMEOUT.total_seconds()
    for rank in set(range(N_RANKS)) - {killed}:
        text, ranks = json.loads((tmp_path / f"error{rank}.json").read_text())
        assert ranks == [killed], text
        assert f"Rank {killed} ended" in text
    assert len(list((tmp_path / "run").glob("step-*"))) > 0
    run_ranks(N_RANKS, partial(run_rank, name=name, killed=-1), tmp_path, limit=LIMIT)
    for file in tmp_path.glob("weights*.pt"):
        torch.testing.assert_close(torch.load(file), whole, rtol=1e-10, atol=1e-10)
    assert len(list(tmp_path.glob("weights*.pt"))) == (2 if name == "harvest" else 4)


def test_a_signal_to_a_rank_that_runs_the_model_stops_all(tmp_path: Path) -> None:
    run_ranks(N_RANKS, partial(run_rank, name="signal", killed=-1), tmp_path, limit=LIMIT)
    found = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("error*.json"))]
    steps = sorted(int(path.name[5:]) for path in (tmp_path / "run").glob("step-*"))
    assert [text for text, _ in found[:2]] == [found[0][0]] * 2
    assert f"Stopped after step {steps[-1]} of" in found[0][0]
    assert steps[-1] < 9
    # The signal acts on its rank too. The other one has nothing to do.
    assert len(found) == 3


def whole_run(name: str) -> dict[str, Tensor]:
    if name == "harvest":
        return train(new(), stream_of(Counting()), Alone(), n_tokens=N_STREAMED)["weights"]
    return train(new(), data_of("distiller", new()), Alone())["weights"]
