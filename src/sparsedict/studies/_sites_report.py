"""`write_sites`, which writes the results of one or several sites to a folder."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsedict import checks, pages
from sparsedict.display import aligned, finite
from sparsedict.studies._decomposition import Decomposition
from sparsedict.studies._dictionary_result import SECONDS
from sparsedict.studies._folder import staged_result
from sparsedict.studies._joint_decomposition import JointDecomposition
from sparsedict.studies._report import facts_of, write_report
from sparsedict.studies._study_result import COLUMNS, WIDTH

RUN = "run.json"
"""File of the options of a run."""


def write_sites(
    found: Mapping[str, Decomposition] | JointDecomposition,
    path: str | os.PathLike[str],
    *,
    strings: pages.TokenStrings | None = None,
    force: bool = False,
    run: Mapping[str, Any] | None = None,
    also: Sequence[str] = (),
    progress: bool = False,
) -> dict[str, Path]:
    """Writes the results of several sites: a subfolder for each site, and a page and a table of all sites.

    The results of a single site, or of dictionaries that have all sites, are written to the folder itself, as by
    `Decomposition.write`. An earlier result is kept until the new result is complete.

    Args:
        found: Results by site, as returned by `decompose_sites`, or the result of `decompose_jointly`.
        path: The folder. It is created if it doesn't exist.
        strings: Function from token ids to text, for the examples.
        force: Whether to allow an earlier result, which is then replaced, and other files in the folder.
        run: Options of the run as plain values, for ``run.json``.
        also: Files in the folder that become part of the result, such as ``metrics.jsonl``.
        progress: Whether to show the size of the pages of latents before they are written, and a progress bar.

    Returns:
        The path of each file or subfolder by its kind. The main page is first.

    Raises:
        FileExistsError: If the folder contains an earlier result or other files and ``force`` isn't set.
        ImportError: If matplotlib isn't installed.
    """
    kinds = Mapping | JointDecomposition
    checks.instance("found", found, kinds, "the result of `decompose_sites` or `decompose_jointly`")
    with staged_result(checks.path("path", path, "a folder"), force=force, also=also) as folder:
        if isinstance(found, JointDecomposition):
            files = write_report(found, folder, strings, progress=progress)
        elif len(found) == 1:
            files = write_report(next(iter(found.values())), folder, strings, progress=progress)
        else:
            files = _write_all(found, folder, strings, progress)
        if run is not None:
            _write_json(folder / RUN, run)
    return {what: Path(path) / file for what, file in files.items()}


def _write_all(
    found: Mapping[str, Decomposition], folder: Path, strings: pages.TokenStrings | None, progress: bool
) -> dict[str, Path]:
    for name, decomposition in found.items():
        (folder / name).mkdir()
        write_report(decomposition, folder / name, strings, progress=progress)
    rows: dict[str, Mapping[str, str]] = {
        f"{name}  {kind}": cells for name, decomposition in found.items() for kind, cells in _rows(decomposition)
    }
    first = next(iter(found.values()))
    table = aligned(rows, [column for column in COLUMNS if column != SECONDS])
    notes = _notes(first, rows)
    lines = [textwrap.fill(note, WIDTH) for note in notes]
    (folder / "table.txt").write_text("\n".join([table, "", *lines, ""]), encoding="utf-8")
    _write_json(folder / "results.json", {name: decomposition.to_dict() for name, decomposition in found.items()})
    sections = [
        pages.Section("Results", table=table, notes=notes),
        pages.Section("Sites", pages={f"{name}/index.html": name for name in found}),
        pages.Section(
            "Settings",
            text="Settings that all sites have in common, including defaults. The page of each site has all settings.",
            facts=_shared([facts_of(decomposition.settings) for decomposition in found.values()]),
        ),
    ]
    lead = (
        f"{len(found)} sites, trained on {first.settings['n_tokens_trained']:,} tokens in one pass "
        f"({first.seconds['training']:.0f} s)."
    )
    pages.write_overview(
        folder / "index.html",
        sections,
        title=f"Decomposition of {len(found)} sites of {first.settings['model']}",
        lead=lead,
    )
    return {
        "page": Path("index.html"),
        "numbers": Path("results.json"),
        "table": Path("table.txt"),
        **{name: Path(name) for name in found},
    }


def _notes(first: Decomposition, rows: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Returns explanations of the table columns that hold for all sites."""
    inspection, n_tokens = first.settings["inspection"], next(iter(first.results.values())).firing.n_tokens
    notes = [
        first.notes()[0],
        "Recovered: loss recovered relative to zero ablation and to mean ablation of the MLP. The page of each site "
        "shows the losses.",
        f"Never fired: latents that are zero on all {n_tokens:,} held-out tokens.",
        f"Simulators: other latents with a decoder cosine above {inspection['threshold']} with a neuron of the MLP.",
    ]
    if any(cell == "-" for cells in rows.values() for cell in cells.values()):
        notes.append("A dash stands for an unknown number. The page of the site gives the reason.")
    return notes


def _shared(facts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {name: value for name, value in facts[0].items() if all(other.get(name) == value for other in facts)}


def _rows(decomposition: Decomposition) -> list[tuple[str, Mapping[str, str]]]:
    return [(kind, result.cells()) for kind, result in decomposition.results.items()]


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(finite(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
