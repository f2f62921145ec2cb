"""Command-line options that several commands have in common, and types of option values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any


class Formatter(argparse.RawDescriptionHelpFormatter):
    """A help formatter that keeps the line breaks of examples, 100 characters wide."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"max_help_position": 28, "width": 100, **options})


def add_command(
    commands: Any, name: str, *, help: str, usage: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    """Adds a command to a parser, and returns the parser of its options.

    Args:
        commands: The commands of the main parser.
        name: Name of the command.
        help: The command in a few words, for the list of commands.
        usage: Arguments of the command.
        description: Description of the command.
        epilog: Examples.
    """
    texts = {"help": help, "usage": f"sparsedict {name} {usage}", "description": description, "epilog": epilog}
    parser: argparse.ArgumentParser = commands.add_parser(name, formatter_class=Formatter, **texts)
    parser.set_defaults(command=name)
    return parser


def count(text: str) -> int:
    """Parses a positive integer. ``2_000_000``, ``2e6`` and ``2M`` are equal.

    Raises:
        argparse.ArgumentTypeError: If the text isn't a positive integer.
    """
    plain = text.strip().replace("_", "").replace(",", "").lower()
    scale = {"k": 1e3, "m": 1e6, "b": 1e9}.get(plain[-1:], 1.0)
    try:
        value = float(plain[:-1] if scale > 1 else plain) * scale
    except ValueError:
        value = 0.0
    if not (1 <= value < 2**53 and value == int(value)):
        raise argparse.ArgumentTypeError(f"must be a positive integer such as 2_000_000 or 2M, got {text!r}")
    return int(value)


def share(text: str) -> float:
    """Parses a number between 0 and 1, both excluded.

    Raises:
        argparse.ArgumentTypeError: If the text isn't such a number.
    """
    return _between(text, 1.0, "a number between 0 and 1")


def positive(text: str) -> float:
    """Parses a positive finite number.

    Raises:
        argparse.ArgumentTypeError: If the text isn't such a number.
    """
    return _between(text, 1e6, "a positive number")


def _between(text: str, high: float, requirement: str) -> float:
    """Parses a number between 0 and ``high``, both excluded."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < high:
        raise argparse.ArgumentTypeError(f"must be {requirement}, got {text!r}")
    return value


def whole(least: int, most: int) -> Callable[[str], int]:
    """Returns a parser of integers in a range, both ends included."""

    def read(text: str) -> int:
        try:
            value = int(text.replace("_", ""))
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be an integer from {least} to {most}, got {text!r}")
        return value

    return read


def folder(text: str) -> Path:
    """Parses the path of a folder.

    Raises:
        argparse.ArgumentTypeError: If the text is empty, which would be the current folder.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError(f"must be the path of a folder, got {text!r}")
    return Path(text)


def every(text: str) -> int | timedelta:
    """Parses a number of steps, such as ``1000``, or a time, such as ``30s``, ``10m`` or ``1h``.

    Raises:
        argparse.ArgumentTypeError: If the text is neither.
    """
    unit = {"s": 1, "m": 60, "h": 3600}.get(text.strip()[-1:])
    try:
        value = float(text.strip()[:-1]) if unit else int(text.replace("_", ""))
    except ValueError:
        value = 0
    if not 0 < value < 2**31:
        raise argparse.ArgumentTypeError(f"must be steps such as 1000, or a time such as 30s, 10m or 1h, got {text!r}")
    return timedelta(seconds=value * unit) if unit else int(value)


def add_out(group: Any, *, force: str = "replace a finished result in FOLDER, or restart an interrupted run") -> None:
    """Adds the options ``--out`` and ``--force``."""
    group.add_argument(
        "--out", type=folder, required=True, metavar="FOLDER", help="folder of the results, which must be new or empty"
    )
    group.add_argument("--force", action="store_true", help=f"{force}; other files with different names are kept")


def add_checkpoints(group: Any) -> None:
    """Adds the options ``--resume`` and ``--checkpoint-every``."""
    group.add_argument(
        "--resume",
        action="store_true",
        help="resume the interrupted run in FOLDER; start a new run if there is none, do nothing if it is finished",
    )
    group.add_argument(
        "--checkpoint-every",
        type=every,
        metavar="STEPS|TIME",
        help="steps or time between checkpoints, such as 1000 (steps) or 30s, 10m, 1h (default: 10m)",
    )


def add_trackers(group: Any) -> None:
    """Adds options to log the records also to Weights & Biases or TensorBoard."""
    group.add_argument(
        "--wandb",
        nargs="?",
        const="sparsedict",
        metavar="PROJECT",
        help="log to Weights & Biases (default project: sparsedict)",
    )
    group.add_argument("--tensorboard", action="store_true", help="log to FOLDER/tensorboard")


def add_machine(parser: argparse.ArgumentParser, *, device: str = "the GPU if there is one") -> Any:
    """Adds options for seed, device, threads and output. Returns their group.

    Args:
        parser: Parser of the command.
        device: Description of the default device.
    """
    group = parser.add_argument_group("run")
    group.add_argument(
        "--seed",
        type=whole(0, 2**63 - 1),
        default=0,
        metavar="N",
        help="seed of weights, order of tokens and latents shown (default: 0)",
    )
    add_run(group, device=device)
    return group


def add_run(group: Any, *, device: str = "the GPU if there is one") -> None:
    """Adds options for threads, device and output to a group.

    Args:
        group: Group of options.
        device: Description of the default device.
    """
    group.add_argument(
        "--threads", type=whole(1, 4096), metavar="N", help="number of CPU threads (default: that of PyTorch)"
    )
    group.add_argument("--device", metavar="NAME", help=f"device such as cpu, cuda, cuda:1 or mps (default: {device})")
    group.add_argument("--quiet", action="store_true", help="show no progress bars, only messages and errors")
    group.add_argument("--traceback", action="store_true", help="show the traceback of an error")


def set_threads(args: argparse.Namespace) -> None:
    """Sets the number of PyTorch threads to that of ``--threads``."""
    if args.threads is not None:
        import torch

        torch.set_num_threads(args.threads)
