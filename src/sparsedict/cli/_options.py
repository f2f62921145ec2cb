"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import timedelta
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


def positive(text: str) -> float:
    """Reads a finite number above zero.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def whole(least: int, most: int) -> Callable[[str], int]:
    """Returns a reader of whole numbers in a range, both ends included."""

    def read(text: str) -> int:
        try:
            value = int(text.replace("_", ""))
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, got {text!r}")
        return value

    return read


def folder(text: str) -> Path:
    """Reads the path of a folder.

    Raises:
        argparse.ArgumentTypeError: If it is empty, which would mean the present folder.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError(f"must name a folder, got {text!r}")
    return Path(text)


def every(text: str) -> int | timedelta:
    """Reads steps, such as ``1000``, or a time, such as ``30s``, ``10m`` and ``1h``.

    Raises:
        argparse.ArgumentTypeError: If it is neither.
    """
    unit = {"s": 1, "m": 60, "h": 3600}.get(text.strip()[-1:])
    try:
        value = float(text.strip()[:-1]) if unit else int(text.replace("_", ""))
    except ValueError:
        value = 0
    if not 0 < value < 2**31:
        raise argparse.ArgumentTypeError(f"must be steps such as 1000, or a time such as 30s, 10m or 1h, got {text!r}")
    return timedelta(seconds=value * unit) if unit else int(value)


def add_out(group: Any, *, force: str = "replace the finished result in FOLDER, or begin a stopped run anew") -> None:
    """Adds where results go."""
    group.add_argument(
        "--out", type=folder, required=True, metavar="FOLDER", help="where the results go: a new or empty folder"
    )
    group.add_argument("--force", action="store_true", help=f"{force}; other files in FOLDER stay unless names collide")


def add_checkpoints(group: Any) -> None:
    """Adds resuming, and how often checkpoints are written."""
    group.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in FOLDER that was stopped; begin if there is none, do nothing if it is finished",
    )
    group.add_argument(
        "--checkpoint-every",
        type=every,
        metavar="STEPS|TIME",
        help="how often to write a checkpoint while training, such as 1000 (steps) or 30s, 10m, 1h (default: 10m)",
    )


def add_trackers(group: Any) -> None:
    """Adds where records go besides ``metrics.jsonl``."""
    group.add_argument(
        "--wandb",
        nargs="?",
        const="sparsedict",
        metavar="PROJECT",
        help="log to Weights & Biases (project: sparsedict where none is named)",
    )
    group.add_argument("--tensorboard", action="store_true", help="log to FOLDER/tensorboard")


def add_machine(parser: argparse.ArgumentParser, *, device: str = "the GPU where there is one") -> Any:
    """Adds how and where to compute; returns the group.

    Args:
        parser: Of the command.
        device: The default device, in words.
    """
    group = parser.add_argument_group("the run")
    group.add_argument(
        "--seed",
        type=whole(0, 2**63 - 1),
        default=0,
        metavar="N",
        help="of weights, shuffle and latents shown (default: 0)",
    )
    group.add_argument("--threads", type=whole(1, 4096), metavar="N", help="CPU threads (default: as PyTorch chooses)")
    group.add_argument("--device", metavar="NAME", help=f"such as cpu, cuda, cuda:1, mps (default: {device})")
    group.add_argument("--quiet", action="store_true", help="no progress bars; messages and errors stay")
    group.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return group


def set_threads(args: argparse.Namespace) -> None:
    """Makes PyTorch use as many threads as were asked for."""
    if args.threads is not None:
        import torch

        torch.set_num_threads(args.threads)
