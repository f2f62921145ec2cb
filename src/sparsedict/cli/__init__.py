"""The command line. Each command has a module of options, which imports quickly, and a module that runs it."""

from __future__ import annotations

import argparse
import importlib
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sparsedict import __version__
from sparsedict.cli import (
    _demo_options,
    _diagnose_options,
    _pages_options,
    _ranks,
    _rate_options,
    _trace_options,
    _train_options,
)
from sparsedict.cli._options import Formatter

__all__ = ["main"]

COMMANDS = (_demo_options, _diagnose_options, _train_options, _pages_options, _trace_options, _rate_options)

UNREAD = 128 + 13
"""Exit status of a program that SIGPIPE ended."""

EPILOG = """\
Start with `sparsedict demo --out sparsedict-demo`, which needs no network and no data.
Every command prints the paths of its results. `sparsedict COMMAND --help` shows its options and examples.
The replication of the report is `python -m examples.report` in the repository.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments after the name of the program. By default those of the process.

    Returns:
        The exit status: 0 on success, 1 if training diverged, 2 for errors that the user can correct, 130 after Ctrl-C,
        and 128 plus the signal number after another signal, for example 143 after SIGTERM. It is 141, as after SIGPIPE,
        if the reader of the output has ended, as in ``sparsedict ... | head``. It is 2 if another rank failed.
    """
    try:
        try:
            return _status(argv)
        finally:
            # At the exit of the interpreter, an error would only be printed.
            sys.stdout.flush()
    except BrokenPipeError:
        unread = _unread()
        if not unread:
            raise
        for stream in unread:
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), stream.fileno())
        return UNREAD


def _status(argv: Sequence[str] | None) -> int:
    """Runs the command line and returns its exit status, see `main`."""
    with _ranks.parsing():
        args = _parser().parse_args(argv)
    # Imported here, because --help and --version don't need PyTorch, which takes seconds to import.
    from sparsedict.cli._errors import USER_ERRORS, message_of, missing_ranks
    from sparsedict.training import NonFiniteLossError, Terminated

    command = importlib.import_module(f"sparsedict.cli.{args.command}")
    try:
        _ranks.check_command(args.command)
        with _signals(), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            command.run(args)
    except KeyboardInterrupt:
        _report(f"\nsparsedict: interrupted; {command.stop_message(args)}")
        return 130
    except Terminated as error:
        name = signal.Signals(error.signal).name
        _report(f"\nsparsedict: stopped by {name}; {command.stop_message(args)}")
        return 128 + error.signal
    except (NonFiniteLossError, *USER_ERRORS) as error:
        if args.traceback or (isinstance(error, BrokenPipeError) and _unread()):
            raise
        _report(f"sparsedict: error: {message_of(error, args)}", missing_ranks(error))
        return 1 if isinstance(error, NonFiniteLossError) else 2
    return 0


def _report(message: str, missing: tuple[int, ...] = ()) -> None:
    """Prints why the command ends, in one of the processes.

    Args:
        message: The message.
        missing: Numbers of the processes that have ended.
    """
    if _ranks.is_reporter(missing):
        print(message, file=sys.stderr, flush=True)
    else:
        _ranks.wait_for_reporter()


def _unread() -> list[Any]:
    """Returns the standard streams whose reader has ended."""
    return [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]


def _is_unread(stream: Any) -> bool:
    try:
        stream.flush()
        number = stream.fileno()
    except BrokenPipeError:
        return True
    except OSError:  # not a file
        return False
    if sys.platform == "win32":
        return False
    # A failed write leaves nothing to flush in a stream without a buffer.
    poll = select.poll()
    poll.register(number, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Prints a warning on one line, without a line of source code."""
    if _ranks.rank() > 0:
        return
    print(f"sparsedict: warning: {' '.join(str(message).split())}", file=sys.stderr)


@contextmanager
def _signals() -> Iterator[None]:
    """Returns a context in which signals that would kill the process raise `Terminated`, so that cleanup code runs."""
    from sparsedict.training import exit_on_signal

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, exit_on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sparsedict",
        description="Decompose a transformer's MLPs into sparse, readable units.",
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    add_version(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        add_version(command.add(commands))
    return parser


def add_version(parser: argparse.ArgumentParser) -> None:
    """Adds the option ``--version``."""
    parser.add_argument(
        "--version", action="version", version=f"sparsedict {__version__}", help="print the version and exit"
    )
