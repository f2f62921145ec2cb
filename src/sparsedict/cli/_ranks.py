"""The command line in processes that ``torchrun`` started. Rank 0 prints the messages of all."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

COMMANDS = ("train",)
"""Commands that several processes can run."""

WAIT = 2.0
"""Seconds in which rank 0 prints an error. ``torchrun`` ends all ranks once one of them has ended with an error."""


def n_ranks() -> int:
    """Returns the number of processes that ``torchrun`` started; 1 if the command was started by itself."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def rank() -> int:
    """Returns the number of this process, from 0."""
    return int(os.environ["RANK"]) if n_ranks() > 1 else 0


def check_command(name: str) -> None:
    """Checks that several processes can run a command.

    Raises:
        ValueError: If there are several processes and the command runs in a single one.
    """
    if n_ranks() > 1 and name not in COMMANDS:
        raise ValueError(
            f"`sparsedict {name}` must run in one process, but torchrun started {n_ranks()}. Start it without torchrun "
            "(the environment variables RANK and WORLD_SIZE must not be set)."
        )


def is_reporter(missing: tuple[int, ...] = ()) -> bool:
    """Returns whether this process prints an error: rank 0, or the next one if rank 0 has ended.

    Args:
        missing: Numbers of the ranks that have ended.
    """
    return rank() == next((number for number in range(n_ranks()) if number not in missing), 0)


def wait_for_reporter() -> None:
    """Waits in a process that doesn't print an error, until the process that prints it has done so."""
    time.sleep(WAIT)


@contextmanager
def parsing() -> Iterator[None]:
    """Returns a context for the parser of the options, whose help and errors are printed by rank 0 only.

    Raises:
        SystemExit: See `argparse.ArgumentParser`.
    """
    if rank() == 0:
        yield
        return
    try:
        with ExitStack() as stack:
            nothing = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nothing))
            stack.enter_context(redirect_stderr(nothing))
            yield
    except SystemExit as stop:
        if stop.code:
            wait_for_reporter()
        raise
