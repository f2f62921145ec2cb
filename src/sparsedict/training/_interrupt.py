"""Ctrl-C while training."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """Within it the first Ctrl-C only asks to stop, so that a step is finished; the second one interrupts at once.

    Only the main thread receives signals, so elsewhere nothing changes; nor where Ctrl-C is ignored.

    Attributes:
        asked: Whether Ctrl-C was pressed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(before):
            self._before = before
            signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()
        # The signal may have come while something else was being printed.
        with suppress(RuntimeError, OSError, ValueError):
            print("\nStopping after this step; press Ctrl-C again to stop at once.", file=sys.stderr, flush=True)
