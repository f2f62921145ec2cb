"""`sparsedict pages`, the pages of the latents of a finished run."""

from __future__ import annotations

import argparse
from contextlib import suppress

from torch import Tensor

from sparsedict import pages
from sparsedict.analysis.scores import LatentScores
from sparsedict.cli._finished_run import FinishedRun, RunPart, finished_run
from sparsedict.cli._latent_scores import check_seeds, rule_scores, stabilities
from sparsedict.cli._options import set_threads
from sparsedict.cli._run_file import run_options

__all__ = ["run", "stop_message"]


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    run_options(args.run)
    check_seeds(args.run, args.stability)
    set_threads(args)
    loaded = finished_run(args.run, device=args.device, progress=not args.quiet)
    for part in loaded.parts:
        out = args.run / part.subfolder / "latents" if args.out is None else args.out / part.subfolder
        # A pass may take hours, so its state is written beside the pages, and the same command continues from it.
        state = out.with_name(f"{out.name}.unfinished")
        index = pages.write(
            out,
            part.site,
            part.units(),
            loaded.held_out,
            tokenizer=loaded.strings,
            n_tokens=args.n_tokens,
            scores=_columns(args, loaded, part),
            title=f"Latents of {part.name or f'{len(loaded.sites)} sites'}",
            keep_records=True,
            progress=not args.quiet,
            checkpoint=state,
            checkpoint_every=args.checkpoint_every,
            resume=True,
        )
        with suppress(OSError):  # Files of other programs may be in the folder.
            state.rmdir()
        print(f"Open {index.resolve()} in a browser.")


def _columns(
    args: argparse.Namespace, loaded: FinishedRun, own: RunPart
) -> dict[str, dict[str, Tensor | LatentScores]]:
    """Returns the scores of the options, by dictionary and name."""
    found: dict[str, dict[str, Tensor | LatentScores]] = {}
    parts = [stabilities(loaded, own, args.stability)] if args.stability else []
    if args.scores:
        parts.insert(0, rule_scores(loaded, own, args.n_tokens, progress=not args.quiet))
    for part in parts:
        for name, columns in part.items():
            found.setdefault(name, {}).update(columns)
    return found


def stop_message(args: argparse.Namespace) -> str:
    """Returns a message about an interrupted command."""
    return (
        "no pages are incomplete: each site has its earlier pages or new ones. Run the same command again; "
        "it continues the pass over the tokens."
    )
