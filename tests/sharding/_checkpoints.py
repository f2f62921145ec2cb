"""Runs that are interrupted on some ranks, and resumed on others."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

import sparsedict as sd
import sparsedict.storage.rows
from parallel._cases import WIDTHS, Signalling, data_of, new, train
from sparsedict.parallel import Alone, DataParallel, Parallel

Case = Callable[[], None]
Form = Callable[[], Parallel | None]

PAIRS = [
    ("four", "four"),
    ("mesh", "mesh"),
    ("four", "one"),
    ("one", "data"),
    ("data", "two"),
    ("two", "mesh"),
    ("mesh", "alone"),
    ("alone", "four"),
]
"""Forms in which a run is interrupted, and resumed. Each form is on both sides."""

KINDS: dict[str, Callable[[], sd.Dictionary]] = {
    "batch_top_k": lambda: new(sd.BatchTopK(3)),
    "cross_layer": lambda: _layers(sd.JumpReLU()),
    "per_layer": lambda: _layers(sd.PerLayer(sd.BatchTopK(2))),
}


def _layers(activation: sd.Activation) -> sd.Dictionary:
    """Returns a dictionary of two layers, which four ranks don't divide evenly."""
    parts = {"activation": activation, "decoder_norm": sd.UnitNorm(), "dtype": torch.float64}
    return sd.CrossLayerDistiller(WIDTHS["cross_layer"], (13, 8), generator=torch.Generator().manual_seed(0), **parts)


def cases() -> Iterator[tuple[str, Case]]:
    """Yields names and cases for four ranks."""
    forms = _forms()
    folder = Path(_common(tempfile.mkdtemp()))
    for index, (before, after) in enumerate(PAIRS):
        kind = list(KINDS)[index % len(KINDS)]
        yield f"checkpoint {before} to {after}, {kind}", partial(_resumes, forms, before, after, kind, folder)
    yield "checkpoint of a full disk", partial(_full, forms["four"], folder)
    yield "checkpoint without rows", partial(_broken, forms["four"], folder)


def _forms() -> dict[str, Parallel | None]:
    """Returns the ranks of each form; ``None`` if this rank isn't one of them."""
    rank = dist.get_rank()
    groups: dict[int, Any] = {n: dist.new_group(list(range(n))) for n in (1, 2)}
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "latents"))
    return {
        "alone": Alone() if rank == 0 else None,
        "one": sd.ShardedLatents(groups[1]) if rank < 1 else None,
        "two": sd.ShardedLatents(groups[2]) if rank < 2 else None,
        "data": DataParallel(groups[2]) if rank < 2 else None,
        "four": sd.ShardedLatents(),
        "mesh": sd.ShardedLatents(mesh),
    }


def _common(value: Any) -> Any:
    held = [value]
    dist.broadcast_object_list(held, 0, device=torch.device("cpu"))
    return held[0]


def _run(parallel: Parallel, kind: str, folder: Path | None = None, stop: int = -1) -> Any:
    """Trains, and stops by a signal to the last rank. Without a folder, no checkpoints are written."""
    dictionary = KINDS[kind]()
    is_last = parallel.rank == parallel.n_ranks - 1
    options: dict[str, Any] = {
        "loss": Signalling(stop if is_last else -1),
        "penalties": [sd.AuxK(k=2, dead_after=60)],
        "lr": 1e-2,
        # The run is stopped between two records, when the sums of measurements aren't zero.
        "log_every": 4,
    }
    if folder is not None:
        options |= {"checkpoint": folder, "checkpoint_every": 4, "resume": True}
    with suppress(sd.training.Terminated):
        name = "distiller" if kind == "batch_top_k" else "cross_layer"
        return train(dictionary, data_of(name, dictionary), parallel, **options)
    assert dictionary.shard is None
    return None


@cache
def alone(kind: str) -> Any:
    """Returns the result of an uninterrupted run in one process. Ranks that are forked later find it computed."""
    return _run(Alone(), kind)


def _resumes(forms: dict[str, Parallel | None], before: str, after: str, kind: str, folder: Path) -> None:
    """A resumed run has the result of an uninterrupted one: the same bits in the same form."""
    path = folder / f"{before}-{after}"
    first, second = forms[before], forms[after]
    if first is not None:
        assert _run(first, kind, path, stop=5) is None
    dist.barrier()
    if first is not None and before not in ("alone", "data"):
        assert list(path.glob("step-*/rows/*.distcp"))
    if second is not None:
        found = _run(second, kind, path)
        whole = _run(second, kind) if before == after else alone(kind)
        for part in ("weights", "history"):
            for name, value in whole[part].items():
                _compare(name, found[part][name], value, 0.0 if before == after else 1e-10)
    dist.barrier()


def _compare(name: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(
        found, expected, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda text: f"{name}: {text}"
    )


def _full(parallel: Parallel, folder: Path) -> None:
    """If a rank can't write its rows, all raise an error, and the earlier checkpoint is intact."""
    path = folder / "full"
    dictionary = KINDS["batch_top_k"]()

    class Closing(sd.Loss):
        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            pass

        def __call__(self, out: sd.ForwardPass) -> Tensor:
            if out.step == 3 and parallel.rank == 0:
                # A file in the place of the folder of rows.
                (path / ".step-000000004.rows").write_text("")
            return sd.SquaredError()(out)

    try:
        train(
            dictionary, data_of("distiller", dictionary), parallel, checkpoint=path, checkpoint_every=2, loss=Closing()
        )
    except OSError as error:
        message = str(error)
    else:
        message = ""
    assert "The checkpoint of step 2 is intact" in message, message
    dist.barrier()
    assert sorted(own.name for own in path.glob("step-*")) == ["step-000000000", "step-000000002"]


def _broken(parallel: Parallel, folder: Path) -> None:
    """A checkpoint that lacks the rows of a rank is skipped."""
    path = folder / "broken"
    assert _run(parallel, "batch_top_k", path, stop=3) is None
    dist.barrier()
    if parallel.is_main:
        newest = max(path.glob("step-*"))
        shutil.copytree(newest, path / "step-000000006")
        next((path / "step-000000006" / "rows").glob("*.distcp")).unlink()
    dist.barrier()
    found = _run(parallel, "batch_top_k", path)
    expected = _run(parallel, "batch_top_k")
    for name, value in expected["weights"].items():
        _compare(name, found["weights"][name], value, 0.0)
