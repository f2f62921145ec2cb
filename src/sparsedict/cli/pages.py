"""`sparsedict pages`, the pages of the latents of a finished run."""

from __future__ import annotations

import argparse

from sparsedict import pages
from sparsedict.cli._finished_run import finished_run, run_options
from sparsedict.cli._options import set_threads

__all__ = ["run", "stop_message"]


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    run_options(args.run)
    set_threads(args)
    loaded = finished_run(args.run, device=args.device, progress=not args.quiet)
    several = len(loaded.sites) > 1
    for name, site in loaded.sites.items():
        root = args.run / name if several else args.run
        out = root / "latents" if args.out is None else args.out / name if several else args.out
        index = pages.write(
            out,
            site,
            loaded.units(name),
            loaded.held_out,
            tokenizer=loaded.strings,
            n_tokens=args.n_tokens,
            title=f"Latents of {name}",
            keep_records=True,
            progress=not args.quiet,
        )
        print(f"Open {index.resolve()} in a browser.")


def stop_message(args: argparse.Namespace) -> str:
    """Returns a message about an interrupted command."""
    return "earlier pages are unchanged. Run the same command again."
