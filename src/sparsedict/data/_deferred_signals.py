"""Signals to a rank that runs a model, which the ranks that train must act on first."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from sparsedict import signals


class DeferredSignals:
    """A context in which a signal is recorded. On leaving it, the program's handler of the signal is called.

    Otherwise the signals that ``torchrun`` sends to all ranks would end this one before the ranks that train have
    written a checkpoint. A second Ctrl-C has its usual effect. In other threads than the main thread, the context has
    no effect.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._is_taken = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> DeferredSignals:
        self._before = signals.install(self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        signals.restore(self._before)
        if self._received is not None and kind is None:
            signal.raise_signal(self._received)

    def taken(self) -> int | None:
        """Returns the number of the received signal, once."""
        found = None if self._is_taken else self._received
        self._is_taken = found is not None or self._is_taken
        return found

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number if self._received is None else self._received
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])
