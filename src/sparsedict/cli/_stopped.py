"""Runs that were stopped, and are gone on with by ``--resume``."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from sparsedict.studies import CHECKPOINTS


def checkpoints(args: argparse.Namespace) -> Path:
    """Returns where the checkpoints of a run go.

    Raises:
        FileExistsError: If those of a run that was stopped lie there, and neither ``--resume`` nor ``--force`` is set.
    """
    folder = args.out / CHECKPOINTS
    if _any(folder) and not args.resume:
        if not args.force:
            raise FileExistsError(
                f"--out must be a folder without a run that was stopped, but {args.out} holds one. Add --resume to go "
                "on with it, or --force to begin anew."
            )
        shutil.rmtree(folder)
    return folder


def discard(out: Path) -> None:
    """Removes the checkpoints of a run whose results are there."""
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def stopped(args: argparse.Namespace) -> str:
    """Says what is left of a run that was interrupted."""
    if _any(args.out / CHECKPOINTS):
        return "give the same command with --resume to go on."
    return "nothing was written."


def _any(folder: Path) -> bool:
    return any(folder.glob("step-*"))
