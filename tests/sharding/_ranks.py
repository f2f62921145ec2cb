"""Runs cases on several gloo ranks, which are forked from one process, and prints the failures as JSON.

Start it as ``python -m tests.sharding._ranks``. All cases run in the same four processes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from tests.sharding import _cases

from sparsedict.sharding import Peers

N_RANKS = 4
ENDED = '{"all": "the process ended without a result"}'


def main() -> None:
    folder = tempfile.mkdtemp()
    children = [_fork(rank, folder) for rank in range(N_RANKS)]
    for child in children:
        os.waitpid(child, 0)
    found = {}
    for rank in range(N_RANKS):
        path = f"{folder}/{rank}.json"
        own = json.loads(Path(path).read_text() or ENDED) if os.path.exists(path) else json.loads(ENDED)
        for name, text in own.items():
            found[name] = found.get(name) or (f"rank {rank}: {text}" if text else "")
    json.dump(found, sys.stdout)


def _fork(rank: int, folder: str) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with open(f"{folder}/{rank}.json", "w") as file:
            json.dump(_run(rank, folder), file)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run(rank: int, folder: str) -> dict[str, str]:
    torch.set_num_threads(1)
    found: dict[str, str] = {}
    for n_ranks in (1, 2, N_RANKS):
        if rank < n_ranks:
            options = {"rank": rank, "world_size": n_ranks, "timeout": timedelta(minutes=3)}
            dist.init_process_group("gloo", init_method=f"file://{folder}/store{n_ranks}", **options)
            found |= _run_cases(n_ranks)
            dist.destroy_process_group()
    return found


def _run_cases(n_ranks: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, case in _cases.cases(n_ranks):
        try:
            case(Peers())
            found[f"{name} on {n_ranks}"] = ""
        except _cases.SkippedError:
            continue
        except Exception:
            # If the other ranks don't fail too, their next collective ends with an error.
            found[f"{name} on {n_ranks}"] = traceback.format_exc(limit=-3)
    return found


if __name__ == "__main__":
    main()
