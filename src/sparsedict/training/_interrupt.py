"""Handling of signals that stop a run: Ctrl-C, and the signals that job schedulers send before they kill a process."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from sparsedict import checks, signals


class Terminated(SystemExit):
    """Raised if a signal such as SIGTERM stopped the run. Uncaught, it exits with status 128 plus the signal number.

    Attributes:
        signal: The signal number.
        message: The step at which the run stopped, and how to resume it.
    """

    def __init__(self, number: int, message: str = "") -> None:
        self.signal: int = checks.at_least("number", number, 1)
        super().__init__(128 + self.signal)
        self.message: str = message

    def __str__(self) -> str:
        return self.message


class WaitInterrupted(BaseException):
    """Raised if a signal arrives while the next batch is being prepared. `Loop` catches it."""


def exit_on_signal(number: int, frame: FrameType | None) -> None:
    """Raises `Terminated`, so that ``finally`` blocks run. Install this handler with ``signal.signal``.

    During `fit`, the current step is finished and a checkpoint is written first.
    """
    raise Terminated(number)


class Interrupt:
    """A context in which a signal only sets `received`, so that the current step can be finished.

    A second Ctrl-C interrupts at once. Python delivers signals to the main thread only, so the context has no effect
    in other threads. Signals that are ignored, or that are handled outside of Python, are left unchanged.

    Attributes:
        received: Number of the received signal, or ``None``.
        is_waiting: Set it while no step is in progress. A signal then raises `WaitInterrupted` at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.is_waiting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        self._before = signals.install(self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signals.restore(self._before)

    def receive(self, number: int) -> None:
        """Stops the run as if this process had received a signal, which another rank received."""
        self.received = number if self.received is None or not self.ends else self.received

    @property
    def ends(self) -> bool:
        """Whether a signal was received that ends the run, because the program has no handler for it."""
        return self.received is not None and self._would_end(self.received)

    def call_handler(self) -> None:
        """Calls the program's handler of the received signal. If it returns, the run continues."""
        assert self.received is not None
        number, self.received = self.received, None
        signal.signal(number, self._receive)
        self._before[number](number, None)

    def stop(self, message: str) -> None:
        """Raises the exception that corresponds to the signal.

        Raises:
            KeyboardInterrupt: For Ctrl-C.
            Terminated: For any other signal.
        """
        assert self.received is not None
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt(message)
        if self._before.get(self.received) is not exit_on_signal:
            # A program that installs `exit_on_signal` prints the message itself.
            _print(message)
        raise Terminated(self.received, message)

    def _would_end(self, number: int) -> bool:
        """Returns whether the original handler would have ended the program."""
        return self._before.get(number, signal.SIG_DFL) in (signal.SIG_DFL, signal.default_int_handler, exit_on_signal)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_first = self.received is None
        # Schedulers may send SIGTERM several times. Only a repeated Ctrl-C means that the run must stop at once.
        if not is_first and number != signal.SIGINT:
            return
        self.received = number if is_first else self.received
        now = self.is_waiting and self._would_end(number)
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])
            if not is_first:
                signal.raise_signal(number)
        after = "" if now else " after this step"
        hint = "; press Ctrl-C again to stop at once" if number == signal.SIGINT and not now else ""
        _print(f"\n{signal.Signals(number).name}: stopping{after}{hint}.")
        if now:
            raise WaitInterrupted


def _print(message: str) -> None:
    # A print may be in progress when the signal arrives.
    with suppress(RuntimeError, OSError, ValueError):
        print(message, file=sys.stderr, flush=True)
