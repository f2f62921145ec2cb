"""The pages and records of a run's latents, for the graph of a prompt."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsedict import pages
from sparsedict.analysis import LatentRecords, TokenEffects, token_effects
from sparsedict.cli._finished_run import NEURONS, FinishedRun


def _page_folders(folder: Path, loaded: FinishedRun, dictionaries: Mapping[str, Any]) -> dict[str, tuple[Path, str]]:
    """Returns the folder of the pages of each site of the run, and the name of the replacing dictionary in them."""
    return {
        name: (folder / part.subfolder / "latents", next(iter(part.transcoders), NEURONS))
        for part in loaded.parts
        for name in part.names
        if part.transcoders or name in dictionaries
    }


def pages_of(folder: Path, loaded: FinishedRun, dictionaries: Mapping[str, Any]) -> dict[str, pages.LatentPages]:
    """Returns the pages of the latents of each site that has some."""
    found = {}
    for name, (pages_folder, kind) in _page_folders(folder, loaded, dictionaries).items():
        try:
            found[name] = pages.LatentPages(pages_folder, kind)
        except (FileNotFoundError, ValueError):
            print(
                f"sparsedict: the graph has no examples of {name}. `sparsedict pages {folder}` writes them.",
                file=sys.stderr,
            )
    return found


def features_of(
    folder: Path, loaded: FinishedRun, dictionaries: Mapping[str, Any]
) -> dict[str, tuple[LatentRecords, TokenEffects | None]]:
    """Returns the records of each site that has saved ones, and the tokens that its latents promote, if known.

    Raises:
        FileNotFoundError: If no site has records.
    """
    sources = {
        name: (part.site, next(iter(part.transcoders.values()), dictionaries.get(name)))
        for part in loaded.parts
        for name in part.names
    }
    found: dict[str, tuple[LatentRecords, TokenEffects | None]] = {}
    for name, (pages_folder, kind) in _page_folders(folder, loaded, dictionaries).items():
        try:
            records = pages.read_records(pages_folder).get(kind)
        except FileNotFoundError:
            continue
        if records is None:
            continue
        effects = None
        try:
            effects = token_effects(*sources[name])
        except ValueError as error:
            print(f"sparsedict: warning: the files of {name} have no promoted tokens: {error}", file=sys.stderr)
        found[name] = records, effects
    if not found:
        raise FileNotFoundError(
            f"--features needs the records of the run's latents, but the run has none. `sparsedict pages {folder}` "
            "writes them."
        )
    return found
