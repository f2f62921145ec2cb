"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the worked examples' line breaks, at a width that fits any terminal."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"max_help_position": 28, "width": 100, **options})


def count(text: str) -> int:
    """Reads a positive whole number; ``2_000_000``, ``2e6`` and ``2M`` are the same.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    plain = text.strip().replace("_", "").replace(",", "").lower()
    scale = {"k": 1e3, "m": 1e6, "b": 1e9}.get(plain[-1:], 1.0)
    try:
        value = float(plain[:-1] if scale > 1 else plain) * scale
    except ValueError:
        value = 0.0
    if not (1 <= value < 2**53 and value == int(value)):
        raise argparse.ArgumentTypeError(f"must be a positive whole number such as 2_000_000 or 2M, got {text!r}")
    return int(value)


def share(text: str) -> float:
    """Reads a number between 0 and 1, both left out.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, got {text!r}")
    return value


def add_out(group: Any) -> None:
    """Adds where results go."""
    group.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the results go (made if new)")
    group.add_argument(
        "--force", action="store_true", help="write even if FOLDER holds other things than an earlier result"
    )


def add_resume(group: Any) -> None:
    """Adds going on with a run."""
    group.add_argument(
        "--resume", action="store_true", help="go on with the run in FOLDER that was stopped, or begin if there is none"
    )


def add_machine(parser: argparse.ArgumentParser) -> Any:
    """Adds how and where to compute; returns the group."""
    group = parser.add_argument_group("the run")
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of weights, shuffle and latents shown (default: 0)"
    )
    group.add_argument("--threads", type=count, metavar="N", help="CPU threads (default: as PyTorch chooses)")
    group.add_argument("--quiet", action="store_true", help="no progress, only the results")
    group.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return group


def set_threads(args: argparse.Namespace) -> None:
    """Makes PyTorch use as many threads as were asked for."""
    if args.threads is not None:
        import torch

        torch.set_num_threads(args.threads)
