"""Handlers of the signals that stop a run: Ctrl-C, and those of job schedulers before they kill a process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["NAMES", "Receiver", "install", "restore"]

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""SLURM and Kubernetes send SIGTERM. A terminal that is closed sends SIGHUP. Schedulers send SIGUSR1 and SIGUSR2 on
request, such as by ``sbatch --signal=USR1@60``."""
Receiver = Callable[[int, FrameType | None], None]


def install(receive: Receiver) -> dict[int, Any]:
    """Installs a handler of all these signals, and returns the handlers that it replaces, by signal number.

    Python delivers signals to the main thread only, so this has no effect in other threads. Signals that are ignored,
    or that are handled outside of Python, are left unchanged.
    """
    replaced: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            before = signal.getsignal(number)
            if before is not None and before is not signal.SIG_IGN:
                replaced[number] = before
                signal.signal(number, receive)
    return replaced


def restore(replaced: dict[int, Any]) -> None:
    """Restores the handlers that `install` returned."""
    for number, before in replaced.items():
        signal.signal(number, before)
