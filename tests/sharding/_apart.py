"""Ranks that run a model apart from those that train, models that are divided among ranks, and the start of ranks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import sparsedict as sd
from parallel._cases import N_STREAMED, Counting, Signalling, new, stream_of, train
from sparsedict.parallel import Alone, DataParallel, Parallel

Case = Callable[[], None]


def cases() -> Iterator[tuple[str, Case]]:
    """Yields names and cases for four ranks."""
    yield "ranks with different numbers of groups", _groups
    yield "ranks with different arguments", _arguments
    yield "ranks with different options", _options
    yield "a rank that doesn't start", _missing
    for n_harvest in (1, 2):
        yield f"harvest on {n_harvest} ranks", partial(_harvest, n_harvest)
    yield "harvest with divided latents", partial(_harvest, 2, sd.ShardedLatents)
    yield "harvest that fails", _failing
    yield "a model that is divided among ranks", _tensor_parallel


def _groups() -> None:
    """A run starts whatever groups its ranks created before."""
    rank = dist.get_rank()
    for _ in range(rank):
        dist.new_group([rank], use_local_synchronization=True)
    parallel = DataParallel(timeout=timedelta(seconds=20))
    assert parallel.exchange(parallel.rank) == [(0,), (1,), (2,), (3,)]
    # From PyTorch 2.14 on, groups of all ranks need equal numbers of calls.
    for _ in range(3 - rank):
        dist.new_group([rank], use_local_synchronization=True)


def _arguments() -> None:
    error = _error(lambda: DataParallel(check_every=2 + dist.get_rank() // 3))
    assert "`check_every` must be the same on all ranks, but it is 2 on rank 0 and 3 on rank 3" in error, error


def _options() -> None:
    """Options that would make ranks wait for each other are errors on all ranks."""
    parallel = DataParallel()
    x = torch.zeros(60, 6), torch.zeros(60, 5)
    plan: dict[str, Any] = {"n_tokens": 60, "batch_size": 30, "parallel": parallel, "progress": False}
    differing = [("log_every", (1, 2)), ("checkpoint", (None, tempfile.mkdtemp())), ("n_tokens", (60, 30))]
    for name, values in (*differing, ("n_tokens", (60, 0))):
        error = _error(partial(sd.fit, new(), x, **{**plan, name: values[parallel.rank == 2]}))
        assert f"`{name}` must be" in error, error
        assert parallel.rank == 2 or "Rank 2 failed" in error, error
    assert sd.fit(new(), x, **plan).n_steps == 2


def _missing() -> None:
    """Ranks don't wait longer than the timeout, and the error names the missing rank."""
    group: Any = dist.new_group([0, 1, 2])
    if dist.get_rank() < 2:
        error = _error(lambda: DataParallel(group, timeout=timedelta(seconds=1)))
        assert "2 didn't create a run of the ranks 0, 1, 2 within 0:00:01" in error, error
    dist.barrier()


def _error(function: Callable[[], Any]) -> str:
    try:
        function()
    except Exception as error:
        return str(error)
    return ""


def _common(value: Any) -> Any:
    held = [value]
    dist.broadcast_object_list(held, 0, device=torch.device("cpu"))
    return held[0]


@cache
def alone() -> Any:
    """Returns the result of a run on a stream in one process. Ranks that are forked later find it computed."""
    return train(new(), stream_of(Counting()), Alone(), n_tokens=N_STREAMED)


def _harvest(n_harvest: int, kind: Callable[[Any], Parallel] = DataParallel) -> None:
    """The result is that of a stream in a single process, also after a stop and a resume."""
    folder = Path(_common(tempfile.mkdtemp()))
    ranks = sd.data.HarvestRanks(n_harvest, timeout=timedelta(seconds=60))
    parallel = None if ranks.is_harvester else kind(ranks.group)
    models: list[Counting] = []

    def stream() -> sd.ActivationStream:
        models.append(Counting())
        return stream_of(models[-1])

    def run(stop: int, data: Any) -> Any:
        assert parallel is not None  # a rank that trains
        is_last = parallel.rank == parallel.n_ranks - 1
        options: dict[str, Any] = {"checkpoint": folder / "run", "checkpoint_every": 4, "resume": True}
        options["loss"] = Signalling(stop if is_last else -1)
        with suppress(sd.training.Terminated):
            return train(new(), data, parallel, n_tokens=N_STREAMED, **options)
        return None

    assert ranks.run(stream, partial(run, 7)) is None
    found = ranks.run(stream, partial(run, -1))
    assert bool(models) == ranks.is_harvester
    if found is not None:
        for part in ("weights", "history"):
            for name, value in alone()[part].items():
                torch.testing.assert_close(found[part][name], value, rtol=1e-10, atol=1e-10, equal_nan=True)
    dist.barrier()


def _failing() -> None:
    """An error of the model is raised on all ranks, and names its rank."""
    ranks = sd.data.HarvestRanks(1, timeout=timedelta(seconds=60))

    def stream() -> sd.ActivationStream:
        raise OSError("no model here")

    parallel = None if ranks.is_harvester else DataParallel(ranks.group)
    error = _error(lambda: ranks.run(stream, lambda data: train(new(), data, parallel or Alone(), n_tokens=60)))
    assert "no model here" in error, error
    assert ranks.is_harvester or "Rank 3" in error, error
    dist.barrier()


class _Divisible(nn.Module):
    """A model with an MLP that is divided among ranks."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.embedding = nn.Embedding(40, 6, dtype=torch.float64)
        self.mlp = nn.Sequential(nn.Linear(6, 8, dtype=torch.float64), nn.GELU(), nn.Linear(8, 6, dtype=torch.float64))
        self.head = nn.Linear(6, 40, dtype=torch.float64)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(tokens)
        return self.head(hidden + self.mlp(hidden))


def _tensor_parallel() -> None:
    """Activations of a divided model are whole, and can be replaced."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))["model"]
    whole, divided = _Divisible(), _Divisible()
    plan = {"0": ColwiseParallel(use_local_output=False), "2": RowwiseParallel(use_local_output=False)}
    parallelize_module(divided.mlp, mesh, plan)
    divided.mlp.register_forward_hook(lambda module, args, output: output.full_tensor())
    tokens = torch.randint(40, (3, 5), generator=torch.Generator().manual_seed(0))
    sae = sd.SparseAutoencoder(8, 16, activation=sd.TopK(3), decoder_norm=sd.UnitNorm(), dtype=torch.float64)
    sae.load_state_dict(_common(sae.state_dict()))
    for path, width in (("mlp", 6), ("mlp.0", 8)):
        sites = [sd.Site(model, path) for model in (whole, divided)]
        batches = [site.capture(tokens) for site in sites]
        for name, value in batches[0].items():
            torch.testing.assert_close(batches[1][name], value, rtol=1e-12, atol=1e-12)
        assert sites[1].d_out == width
    outputs = []
    for model in (whole, divided):
        with sd.Site(model, reads="mlp.0:out", writes="mlp.0:out").replaced(sae):
            outputs.append(model(tokens))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-12, atol=1e-12)
