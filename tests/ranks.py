"""Ranks that are forked from the test process, which saves the time of imports, with a limit of time."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import torch

AFTER_FAILURE = 20.0
"""Seconds that other ranks have to end after one failed. They may wait for it without end."""


def run_ranks(
    n_ranks: int,
    function: Callable[[int, int, Path], None],
    folder: Path,
    limit: float = 180.0,
    killed: Collection[int] = (),
) -> None:
    """Calls a function on each of several forked ranks, and waits for them.

    Args:
        n_ranks: Number of ranks.
        function: Called with the rank, the number of ranks and the folder.
        folder: Folder for files of the ranks, in which their output is written.
        limit: Seconds after which all ranks are killed.
        killed: Ranks that must end by SIGKILL.

    Raises:
        AssertionError: If a rank fails, or takes too long. The message has the end of its output.
    """
    children = {_fork(rank, n_ranks, function, folder, limit): rank for rank in range(n_ranks)}
    failed: list[str] = []
    end = time.monotonic() + limit
    try:
        while children:
            for child in list(children):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    rank = children.pop(child)
                    if status != (signal.SIGKILL if rank in killed else 0):
                        failed.append(f"rank {rank} ended with {status}: {_tail(folder, rank)}")
            if time.monotonic() > end:
                outputs = [_tail(folder, rank) for rank in children.values()]
                raise AssertionError(f"The ranks took longer than {limit} s: {outputs}")
            time.sleep(0.02)
    finally:
        for child in children:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
    assert not failed, "\n".join(failed)


def _tail(folder: Path, rank: int) -> str:
    return (folder / f"output{rank}").read_text(errors="replace")[-3000:]


def _fork(rank: int, n_ranks: int, function: Callable[[int, int, Path], None], folder: Path, limit: float) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        output = os.open(folder / f"output{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.enable(2)
        # The rank ends even if the test process is killed.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(limit) + 5)
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        function(rank, n_ranks, folder)
        code = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)
