"""The folder, callbacks and final output of a training command."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sparsedict.cli._errors import translate
from sparsedict.cli._run_file import absolute_options
from sparsedict.display import listed
from sparsedict.pages import TokenStrings
from sparsedict.parallel import Alone, Parallel
from sparsedict.studies import Decomposition, JointDecomposition, RunFolder
from sparsedict.training.callbacks import Callback, JSONLines, TensorBoard, WeightsAndBiases

ALONE = Alone()
UNSAVED_OPTIONS = {
    "checkpoint_every",
    "command",
    "device",
    "force",
    "latent_ranks",
    "out",
    "quiet",
    "resume",
    "tensorboard",
    "threads",
    "traceback",
    "wandb",
}
"""Options that may differ when a run is resumed."""


def run_folder(args: argparse.Namespace) -> RunFolder:
    """Returns the folder of the run with these options, which have absolute paths."""
    options: dict[str, Any] = {"command": args.command}
    for name, value in vars(args).items():
        if name not in UNSAVED_OPTIONS:
            option = "MODEL" if name == "model" else f"--{name.replace('_', '-')}"
            options[option] = str(value) if isinstance(value, Path) else value
    return RunFolder(args.out, absolute_options(options), resume=args.resume, force=args.force)


def training_options(args: argparse.Namespace, folder: RunFolder, parallel: Parallel = ALONE) -> dict[str, Any]:
    """Returns the arguments of `decompose` for processes, progress, callbacks and checkpoints."""
    return {
        "progress": not args.quiet,
        "verbose": True,
        "autocast": torch.bfloat16 if getattr(args, "autocast", False) else None,
        "callbacks": _callbacks(args, folder) if parallel.is_main else [],
        "checkpoint": folder.checkpoints,
        "checkpoint_every": args.checkpoint_every,
        "resume": args.resume,
        "parallel": parallel,
    }


def check_trackers(args: argparse.Namespace) -> None:
    """Checks that the packages of the requested trackers are installed.

    Raises:
        ImportError: If a package isn't installed.
    """
    for option, module in (("wandb", "wandb"), ("tensorboard", "tensorboard")):
        if getattr(args, option):
            try:
                __import__(module)
            except ImportError as error:
                raise ImportError(f"--{option} needs the package {module}: pip install {module}") from error


def print_finished(folder: RunFolder) -> None:
    """Prints that the run is finished already."""
    folder.discard_leftovers()
    print(f"This run is already finished. Its results are in {folder.path}. Nothing was trained.")
    print("Use --force without --resume to train again.")


def write_results(
    folder: RunFolder,
    found: Mapping[str, Decomposition] | JointDecomposition,
    strings: TokenStrings,
    *,
    progress: bool = True,
) -> None:
    """Writes the results, then prints the table and the paths of all files."""
    if isinstance(found, Mapping):
        found = {name: replace(own, note=own.note and translate(own.note, {})) for name, own in found.items()}
    files = folder.finish(found, strings, progress=progress)
    print(files["table"].read_text(encoding="utf-8"))
    print(listed([(kind, str(path)) for kind, path in files.items()]))
    print(f"\nOpen {files['page'].resolve()} in a browser.")


def stop_message(args: argparse.Namespace) -> str:
    """Returns a message about an interrupted run."""
    folder = RunFolder(args.out, {})
    if folder.was_stopped:
        return "run the same command with --resume to resume the run."
    if folder.has_result:
        return f"the results of a finished run are in {args.out}."
    return "nothing was written."


def _callbacks(args: argparse.Namespace, folder: RunFolder) -> list[Callback]:
    # The order must not change, because checkpoints identify callbacks by their index.
    callbacks: list[Callback] = [JSONLines(folder.metrics)]
    if args.tensorboard:
        callbacks.append(TensorBoard(folder.tensorboard))
    if args.wandb is not None:
        # A resumed run has the same id, so it continues the run of Weights & Biases.
        config = {"out": str(args.out), **folder.options}
        callbacks.append(_wandb(project=args.wandb, id=folder.id, resume="allow", config=config))
    return callbacks


def _wandb(**settings: Any) -> WeightsAndBiases:
    try:
        return WeightsAndBiases(**settings)
    # wandb has its own exceptions, for example if there is no account.
    except Exception as error:
        raise ValueError(
            f"--wandb couldn't start a run: {error} Set WANDB_MODE=offline to log without a network."
        ) from error
