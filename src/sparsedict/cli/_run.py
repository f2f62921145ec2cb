"""The run of a command that trains: its folder, where its records go, and what is printed at its end."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sparsedict.pages import TokenStrings
from sparsedict.studies import RunFolder, TakenApart
from sparsedict.training.callbacks import Callback, JSONLines, TensorBoard, WeightsAndBiases

NO_PART = {
    "checkpoint_every",
    "command",
    "device",
    "force",
    "out",
    "quiet",
    "resume",
    "tensorboard",
    "threads",
    "traceback",
    "wandb",
}
"""Options that a run may be resumed without or with others of."""


def run_folder(args: argparse.Namespace) -> RunFolder:
    """Returns the folder of the run that the options ask for."""
    options: dict[str, Any] = {"command": args.command}
    for name, value in vars(args).items():
        if name not in NO_PART:
            option = "MODEL" if name == "model" else f"--{name.replace('_', '-')}"
            options[option] = str(value) if isinstance(value, Path) else value
    return RunFolder(args.out, options, resume=args.resume, force=args.force)


def training_options(args: argparse.Namespace, folder: RunFolder) -> dict[str, Any]:
    """Returns what `take_apart` is told of the run itself: progress, records, checkpoints."""
    return {
        "progress": not args.quiet,
        "verbose": True,
        "autocast": torch.bfloat16 if getattr(args, "autocast", False) else None,
        "callbacks": _callbacks(args, folder),
        "checkpoint": folder.checkpoints,
        "checkpoint_every": args.checkpoint_every,
        "resume": args.resume,
    }


def check_trackers(args: argparse.Namespace) -> None:
    """Checks that what records are to go to is installed.

    Raises:
        ImportError: If it isn't.
    """
    for option, module in (("wandb", "wandb"), ("tensorboard", "tensorboard")):
        if getattr(args, option):
            try:
                __import__(module)
            except ImportError as error:
                raise ImportError(f"--{option} needs the package {module}: pip install {module}") from error


def say_finished(folder: RunFolder) -> None:
    """Says that there is nothing to resume."""
    folder.discard_leftovers()
    print(f"This run is finished: its results are in {folder.path}. Nothing was trained.")
    print("Add --force, without --resume, to train it again.")


def conclude(folder: RunFolder, found: Mapping[str, TakenApart], strings: TokenStrings) -> None:
    """Writes the results, prints the table, and says where everything lies."""
    files = folder.finish(found, strings)
    width = max(map(len, files))
    print(files["table"].read_text(encoding="utf-8"))
    for what, path in files.items():
        print(f"{what.ljust(width)}  {path}")
    print(f"\nOpen {files['page'].resolve()} in a browser.")


def stopped(args: argparse.Namespace) -> str:
    """Says what is left of a run that was interrupted."""
    if RunFolder(args.out, {}).was_stopped:
        return "give the same command with --resume to go on."
    return "nothing was written."


def _callbacks(args: argparse.Namespace, folder: RunFolder) -> list[Callback]:
    # Always in this order: checkpoints know callbacks by their place.
    callbacks: list[Callback] = [JSONLines(folder.metrics)]
    if args.tensorboard:
        callbacks.append(TensorBoard(folder.tensorboard))
    if args.wandb is not None:
        # A run that is resumed keeps its id, and so continues there as well.
        config = {"out": str(args.out), **folder.options}
        callbacks.append(_wandb(project=args.wandb, id=folder.id, resume="allow", config=config))
    return callbacks


def _wandb(**settings: Any) -> WeightsAndBiases:
    try:
        return WeightsAndBiases(**settings)
    # Such as no account: wandb has errors of its own.
    except Exception as error:
        raise ValueError(f"--wandb couldn't begin a run: {error} WANDB_MODE=offline does without a network.") from error
