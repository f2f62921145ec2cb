"""Worker processes of contenders, of which one runs at a time."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.case import Case
from benchmarks.contenders import Contender
from benchmarks.stopwatch import FinishedError, Order, Turn, timed


class ContenderError(RuntimeError):
    """Raised if the training loop of a contender failed."""


class Worker:
    """The process of one contender, which runs several cases and waits between turns.

    Args:
        contender: The contender.
        threads: Number of PyTorch threads, or ``None`` for the default.
    """

    def __init__(self, contender: Contender, threads: int | None) -> None:
        self.contender = contender
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, contender, threads), daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, case: Case) -> None:
        """Constructs the dictionary of the contender. Turns follow until :meth:`end`."""
        self._ours.send(case)

    def turn(self, order: Order) -> Turn:
        """Runs some steps.

        Raises:
            ContenderError: If the training loop failed.
        """
        self._ours.send(order)
        answer = self._receive()
        assert isinstance(answer, Turn)
        return answer

    def end(self) -> None:
        """Leaves the training loop and discards the case."""
        self._ours.send(None)
        self._receive()

    def release(self) -> None:
        """Lets the process end."""
        with suppress(OSError):
            self._ours.send(None)
            self._ours.send(None)

    def close(self) -> None:
        """Ends the process, and kills it if necessary."""
        self.release()
        self._process.join(timeout=10)
        self._process.kill()
        self._process.join()

    def _receive(self) -> Any:
        try:
            answer = self._ours.recv()
        except EOFError:
            raise ContenderError(f"{self.contender.label}: the process ended ({self._process.exitcode}).") from None
        if isinstance(answer, str) and answer:
            raise ContenderError(f"{self.contender.label}: {answer}")
        return answer


def silence() -> None:
    """Sends what a library prints to a temporary file."""
    sink = tempfile.TemporaryFile()  # noqa: SIM115
    os.dup2(sink.fileno(), 1)
    os.dup2(sink.fileno(), 2)


def prepare(threads: int | None) -> None:
    """Sets up a process in which a library trains."""
    import torch

    silence()
    os.environ.setdefault("WANDB_MODE", "disabled")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if threads is not None:
        torch.set_num_threads(threads)


def _serve(pipe: Connection, contender: Contender, threads: int | None) -> None:
    prepare(threads)
    while True:
        case = pipe.recv()
        if case is None:
            return
        if not isinstance(case, Case):
            continue
        try:
            contender.library.train(case, timed(case, _orders(pipe), pipe.send), contender.options)
            answer = "the training loop came to an end by itself"
        except FinishedError:
            answer = ""
        except BaseException as error:
            answer = why(error)
        pipe.send(answer)


def why(error: BaseException) -> str:
    """Returns the first line of an error and its location."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
    return "\n".join([f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", *places])


def _orders(pipe: Connection) -> Iterator[Order]:
    while True:
        order = pipe.recv()
        if order is None:
            return
        yield order
