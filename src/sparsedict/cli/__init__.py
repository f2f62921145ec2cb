"""The command line: one module for each command, with `add` (its arguments) and `run` (what it does)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sparsedict import __version__
from sparsedict.cli import demo, replicate, train
from sparsedict.cli._options import Formatter
from sparsedict.training import NonFiniteLossError

__all__ = ["main"]

COMMANDS = (demo, replicate, train)

EPILOG = """\
Start with `sparsedict demo --out sparsedict-demo`: it needs no network and no data.
Every command says where its results lie, and `sparsedict COMMAND --help` explains it with examples.
"""

USER_ERRORS = (ValueError, TypeError, OSError, ImportError)
"""What the library raises where it was asked for something that can't be: a line, not a traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments after the program's name; by default those of the process.

    Returns:
        The exit status: 0, 2 for what the user can mend, 1 for training that diverged, 130 if interrupted.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except KeyboardInterrupt:
        print(f"\nsparsedict: interrupted; {args.stopped(args)}", file=sys.stderr)
        return 130
    except NonFiniteLossError as error:
        return _fail(args, error, 1)
    except USER_ERRORS as error:
        return _fail(args, error, 2)
    return 0


def _fail(args: argparse.Namespace, error: Exception, status: int) -> int:
    if args.traceback:
        raise error
    print(f"sparsedict: error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sparsedict",
        description="Take a transformer's MLP apart into sparse, readable units.",
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="version", version=f"sparsedict {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser
