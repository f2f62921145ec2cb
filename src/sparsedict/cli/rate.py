"""`sparsedict rate`, the blind rating of latents of a finished run."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

from sparsedict.analysis import LatentRecords, collect, latent_types, match_neurons, ratings
from sparsedict.analysis.ratings import Ratings
from sparsedict.cli._errors import OptionError
from sparsedict.cli._finished_run import FinishedRun, RunPart, finished_run
from sparsedict.cli._options import set_threads
from sparsedict.cli._rate_options import N_TOKENS
from sparsedict.cli._run_file import run_options
from sparsedict.pages import read_records
from sparsedict.pages.rating import (
    RatingServer,
    RatingSet,
    check_rater,
    kinds_of,
    rating_set,
    read_settings,
    write_page,
)
from sparsedict.sites import Site

__all__ = ["run", "stop_message"]

SETTINGS = ("n_per_kind", "n_examples", "n_tokens", "seed")
"""Options that decide which latents are shown."""


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    run_options(args.run)
    _check_options(args)
    folder = args.ratings or args.run / "ratings"
    if args.results:
        print(results(folder))
        return
    found = _set(args, folder)
    if args.out is not None:
        write_page(args.out, found, rater=args.rater)
        print(f"Open {args.out.resolve()} in a browser. It shows {len(found.items)} latents.")
        print(f"Put the downloaded file into {folder}, then run the command with --results.")
        return
    server = RatingServer(found, folder, rater=args.rater, port=args.port)
    print(f"Open {server.url} in a browser on this machine. It shows {len(found.items)} latents.")
    print(f"Answers are written to {folder}. Don't open {folder / 'key.json'} before you finish.", flush=True)
    try:
        server.serve()
    except KeyboardInterrupt:
        print(f"\nStopped. Run `sparsedict rate {args.run}` again to continue, or with --results.")
    finally:
        server.close()


def _check_options(args: argparse.Namespace) -> None:
    """Checks options that another option leaves without effect.

    Raises:
        ValueError: If there is one.
    """
    if args.rater is not None:
        check_rater(args.rater)
        if args.results:
            raise OptionError(f"--rater must be omitted with --results, got {args.rater!r}.")
    if args.port and (args.results or args.out is not None):
        other = "--results" if args.results else "--out"
        raise OptionError(f"--port must be omitted with {other}, which starts no server, got {args.port}.")


def stop_message(args: argparse.Namespace) -> str:
    """Returns a message about an interrupted run."""
    return "answers are already written. Run the same command to continue."


def results(folder: Path) -> str:
    """Returns mean grades, rank correlations with maxima, and the agreement of all pairs of raters as text.

    Raises:
        FileNotFoundError: If there are no ratings.
    """
    files = sorted(folder.glob("ratings-*.json"))
    if not files:
        raise FileNotFoundError(f"`ratings` must be a folder with ratings, but {folder} has no ratings-NAME.json.")
    found = ratings.read(*files, key=folder / "key.json")
    if not len(found):
        raise FileNotFoundError(f"`ratings` must be a folder with ratings, but the files in {folder} are empty.")
    lines = [str(ratings.table(found)), ""]
    for name in found.dictionaries:
        correlation = ratings.rank_correlation(found.of(name))
        lines.append(f"rank correlation of grade and largest activation, {name}: {correlation}")
    for pair in itertools.combinations(found.raters, 2):
        both = Ratings((*found.by(pair[0]), *found.by(pair[1])))
        lines += ["", f"agreement of {pair[0]} and {pair[1]}", str(ratings.agreement(both))]
    return "\n".join(lines)


def _set(args: argparse.Namespace, folder: Path) -> RatingSet:
    """Returns the set in the folder, or selects and writes one."""
    settings = {name: getattr(args, name) for name in SETTINGS}
    before = read_settings(folder)
    if before == settings:
        return RatingSet.read(folder)
    if before is not None:
        changes = ", ".join(
            f"--{name.replace('_', '-')} {before.get(name)}" for name in SETTINGS if before.get(name) != settings[name]
        )
        raise ValueError(f"{folder} has latents that were selected with {changes}. Pass the same, or --ratings FOLDER.")
    set_threads(args)
    loaded = finished_run(args.run, device=args.device, progress=not args.quiet)
    found = select(loaded, args)
    found.write(folder, settings)
    return found


def select(loaded: FinishedRun, args: argparse.Namespace) -> RatingSet:
    """Selects the latents of all dictionaries of a run, and neurons."""
    records: dict[str, Any] = {}
    kinds: dict[str, list[str]] = {}
    for part in loaded.parts:
        own = part.units()
        found = None if args.n_tokens is not None else _from_pages(args.run / part.subfolder / "latents", part)
        if found is None:
            n_tokens = args.n_tokens or N_TOKENS
            found = collect(part.site, own, loaded.held_out, n_tokens=n_tokens, progress=not args.quiet)
        for name, recorded in found.items():
            label = f"{part.subfolder}/{name}" if part.subfolder else name
            records[label] = recorded
            if name == "distiller" and isinstance(part.site, Site):
                match = match_neurons(own[name], part.site.neurons)
                kinds[label] = kinds_of(latent_types(match, dead=recorded.dead))
    return rating_set(
        records,
        kinds=kinds,
        strings=loaded.strings,
        n_per_kind=args.n_per_kind,
        n_examples=args.n_examples,
        seed=args.seed,
    )


def _from_pages(folder: Path, part: RunPart) -> dict[str, LatentRecords] | None:
    """Returns the records that were saved with the pages of a part of a run, or ``None`` if there are none."""
    try:
        found = read_records(folder)
    except FileNotFoundError:
        return None
    names = part.with_sites().keys()
    return {name: found[name] for name in names} if names <= found.keys() else None
