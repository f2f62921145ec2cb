"""Runs cases on 1, 2 and 4 gloo ranks in the same four processes, and collects the failures."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch.distributed as dist

from sharding import _apart, _cases, _checkpoints, _mesh
from sparsedict.sharding import Peers

N_RANKS = 4


def run(rank: int, n_ranks: int, folder: Path) -> None:
    """Runs all cases on one rank, and writes the failures to a file."""
    found: dict[str, str] = {}
    for size in (1, 2, n_ranks):
        if rank < size:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{folder}/store{size}",
                rank=rank,
                world_size=size,
                timeout=timedelta(minutes=10),
            )
            found |= _run_cases(size)
            dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def _run_cases(n_ranks: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, case in _all(n_ranks):
        try:
            case()
            found[f"{name} on {n_ranks}"] = ""
        except _cases.SkippedError:
            continue
        except Exception:
            # If the other ranks don't fail too, their next collective ends with an error.
            found[f"{name} on {n_ranks}"] = traceback.format_exc(limit=-3)
    return found


def _all(n_ranks: int) -> Iterator[tuple[str, Callable[[], None]]]:
    for name, case in _cases.cases(n_ranks):
        yield name, partial(case, Peers())
    if n_ranks == N_RANKS:
        yield from _mesh.cases()
        yield from _checkpoints.cases()
        yield from _apart.cases()
