"""The folder of results of one site or of several."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsedict import pages
from sparsedict.display import aligned, finite
from sparsedict.studies._dictionary_result import SECONDS
from sparsedict.studies._folder import filled
from sparsedict.studies._report import facts_of, write_report
from sparsedict.studies._taken_apart import COLUMNS, WIDTH, TakenApart

RUN = "run.json"
"""Holds what the run was asked for."""


def write_sites(
    found: Mapping[str, TakenApart],
    path: str | os.PathLike[str],
    *,
    strings: pages.TokenStrings | None = None,
    force: bool = False,
    run: Mapping[str, Any] | None = None,
    also: Sequence[str] = (),
) -> dict[str, Path]:
    """Writes what was found at several sites: a folder for each, and a page and a table of all.

    Of one site, everything lies in the folder itself, as `TakenApart.write` writes it. The new result is whole before
    an earlier one is touched.

    Args:
        found: By the site's name, as `take_apart_sites` returns it.
        path: The folder; it is made where it doesn't exist.
        strings: From token ids to text, for the examples.
        force: Whether an earlier result may be replaced, and other things may lie in the folder.
        run: What the run was asked for, in plain values, for ``run.json``.
        also: Files of the folder that are part of the result already, such as ``metrics.jsonl``.

    Returns:
        What was written, by what it is; the page to open first.

    Raises:
        FileExistsError: If the folder holds an earlier result or other things and ``force`` isn't set.
        ImportError: If matplotlib isn't installed.
    """
    with filled(Path(path), force=force, also=also) as folder:
        if len(found) == 1:
            files = write_report(next(iter(found.values())), folder, strings)
        else:
            files = _write_all(found, folder, strings)
        if run is not None:
            _write_json(folder / RUN, run)
    return {what: Path(path) / file for what, file in files.items()}


def _write_all(found: Mapping[str, TakenApart], folder: Path, strings: pages.TokenStrings | None) -> dict[str, Path]:
    for name, taken in found.items():
        (folder / name).mkdir()
        write_report(taken, folder / name, strings)
    rows: dict[str, Mapping[str, str]] = {
        f"{name}  {kind}": cells for name, taken in found.items() for kind, cells in _rows(taken)
    }
    first = next(iter(found.values()))
    table = aligned(rows, [column for column in COLUMNS if column != SECONDS])
    notes = _notes(first, rows)
    lines = [textwrap.fill(note, WIDTH) for note in notes]
    (folder / "table.txt").write_text("\n".join([table, "", *lines, ""]), encoding="utf-8")
    _write_json(folder / "results.json", {name: taken.to_dict() for name, taken in found.items()})
    sections = [
        pages.Section("Results", table=table, notes=notes),
        pages.Section("Sites", pages={f"{name}/index.html": name for name in found}),
        pages.Section(
            "Settings",
            text="The settings that all sites share, defaults included. The page of each site has all of its own.",
            facts=_shared([facts_of(taken.settings) for taken in found.values()]),
        ),
    ]
    lead = (
        f"{len(found)} sites, trained on {first.settings['n_tokens_trained']:,} tokens in one pass "
        f"({first.seconds['training']:.0f} s)."
    )
    pages.write_overview(
        folder / "index.html", sections, title=f"{first.settings['model']}: {len(found)} sites, taken apart", lead=lead
    )
    return {
        "page": Path("index.html"),
        "numbers": Path("results.json"),
        "table": Path("table.txt"),
        **{name: Path(name) for name in found},
    }


def _notes(first: TakenApart, rows: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Returns what the table's columns mean, in words that hold for all sites."""
    inspection, n_tokens = first.settings["inspection"], next(iter(first.results.values())).firing.n_tokens
    notes = [
        first.notes()[0],
        "Recovered: how much is closed of the gap between the model's loss and its loss with the MLP zeroed, or with "
        "its mean output. The page of each site has these losses.",
        f"Never fired: latents that are zero on all of {n_tokens:,} held-out tokens.",
        f"Simulators: of the others, those with a decoder cosine above {inspection['threshold']} with one of the MLP's "
        "neurons.",
    ]
    if any(cell == "-" for cells in rows.values() for cell in cells.values()):
        notes.append("A dash stands for a number that isn't known. The page of the site says why.")
    return notes


def _shared(facts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {name: value for name, value in facts[0].items() if all(other.get(name) == value for other in facts)}


def _rows(taken: TakenApart) -> list[tuple[str, Mapping[str, str]]]:
    return [(kind, result.cells()) for kind, result in taken.results.items()]


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(finite(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
