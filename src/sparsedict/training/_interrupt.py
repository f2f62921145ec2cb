"""Signals that ask a run to stop: Ctrl-C, and those that schedulers send before they kill."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""SLURM and Kubernetes send SIGTERM; a closed terminal SIGHUP; SIGUSR1 and SIGUSR2 are sent on request, as by
``sbatch --signal=USR1@60``."""


class Terminated(SystemExit):
    """A signal such as SIGTERM ended the run. Left alone, it ends the process with status 128 + the signal's number.

    Attributes:
        signal: The signal's number.
        message: Where the run stopped and how to resume it.
    """

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(128 + number)
        self.signal = number
        self.message = message

    def __str__(self) -> str:
        return self.message


class WaitInterrupted(BaseException):
    """A signal came while the next batch was being prepared. Only the loop sees this."""


def exit_on_signal(number: int, frame: FrameType | None) -> None:
    """Raises `Terminated`: a handler for ``signal.signal`` under which ``finally`` blocks run.

    `fit` finishes its step and writes a checkpoint first.
    """
    raise Terminated(number)


class Interrupt:
    """A context in which a signal that would end the process only sets `asked`, so that a step can be finished.

    A second Ctrl-C interrupts at once. Signals arrive in the main thread alone, so in other threads nothing changes.
    Signals that are ignored, or that are handled outside of Python, are left as they are.

    Attributes:
        asked: Number of the signal that arrived, or ``None``.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}
        self._waiting = False

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
                before = signal.getsignal(number)
                if before is not None and before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Returns a context in which a signal raises `WaitInterrupted` at once: there is no step to be finished."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def hand_on(self) -> bool:
        """Calls the handler that the program had set for the signal; returns whether the run continues.

        It does where such a handler returns: the program has dealt with the signal. It doesn't where there was none.
        """
        assert self.asked is not None
        if self._ends(self.asked):
            return False
        number, self.asked = self.asked, None
        signal.signal(number, self._ask)
        self._before[number](number, None)
        return True

    def stop(self, message: str) -> None:
        """Raises what the signal stands for.

        Raises:
            KeyboardInterrupt: For Ctrl-C.
            Terminated: For any other signal.
        """
        assert self.asked is not None
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt(message)
        if self._before[self.asked] is not exit_on_signal:
            # A program that set that handler says itself how to resume it.
            _say(message)
        raise Terminated(self.asked, message)

    def _ends(self, number: int) -> bool:
        """Whether the signal would have ended the program."""
        return self._before[number] in (signal.SIG_DFL, signal.default_int_handler, exit_on_signal)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        is_first = self.asked is None
        # Schedulers may send SIGTERM several times: only Ctrl-C is a person in a hurry.
        if not is_first and number != signal.SIGINT:
            return
        self.asked = number if is_first else self.asked
        now = self._waiting and self._ends(number)
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])
            if not is_first:
                signal.raise_signal(number)
        after = "" if now else " after this step"
        hint = "; press Ctrl-C again to stop at once" if number == signal.SIGINT and not now else ""
        _say(f"\n{signal.Signals(number).name}: stopping{after}{hint}.")
        if now:
            raise WaitInterrupted


def _say(message: str) -> None:
    # The signal may have come while something else was being printed.
    with suppress(RuntimeError, OSError, ValueError):
        print(message, file=sys.stderr, flush=True)
