"""`replicate`, which runs the studies of the report and writes their results to a folder."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sparsedict import figures, pages
from sparsedict.studies import environment

from .experiment import Experiment
from .folder import (
    DICTIONARIES,
    FIGURES,
    LATENTS,
    NUMBERS,
    REPLACED,
    RUN,
    begin,
    locked,
    read_json,
    write_json,
)
from .studies import STUDIES
from .study import Finding, Numbers, Study, plain

REPORT_TITLE = "slavachalnev, Sparse MLP Distillation, LessWrong, 15 January 2024"
REPORT_LINK = "https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation"
LEAD = (
    "The claims, figures, tables and questions of the report, with the measurements of this run. All text, tables and "
    "figures are made from the numbers of this run. A claim is a list of clauses. A clause holds if the whole 95 % "
    "interval of its number, over seeds and held-out text, meets the condition. It doesn't hold if the whole interval "
    "fails the condition. Otherwise the result is undecided (can't tell). A claim is seen if all of its clauses hold, "
    "partly seen if some clauses hold, and not seen if all clauses fail. Otherwise it is undecided."
)


def replicate(
    experiment: Experiment,
    path: str | os.PathLike[str],
    *,
    studies: Sequence[Study] = STUDIES,
    facts: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: bool = True,
) -> dict[str, Finding]:
    """Runs the studies of the report and writes a self-contained folder with a page, figures and numbers.

    The numbers of a study and the trained dictionaries are saved as soon as they are available. A second call with the
    same folder and facts resumes the run. The page is updated after each study.

    Args:
        experiment: The experiment. Its dictionaries are saved in the folder.
        path: The folder. It is created if it doesn't exist.
        studies: The studies to run. The page also shows studies that were measured in the folder before.
        facts: Additional facts of the run for the page, such as the name of the model.
        force: Whether to replace another run in the folder.
        progress: Whether to print progress messages to the standard error stream.

    Returns:
        The findings by study.

    Raises:
        FileExistsError: If the folder contains another run or other files, and ``force`` isn't set.
        ImportError: If matplotlib isn't installed.
    """
    folder = Path(path)
    facts = plain({**(facts or {}), "seed": experiment.seed, **experiment.setting.to_dict()})
    with locked(folder):
        return _run(experiment, folder, studies, facts, force, progress)


def _run(
    experiment: Experiment, folder: Path, studies: Sequence[Study], facts: Numbers, force: bool, progress: bool
) -> dict[str, Finding]:
    run = begin(folder, facts, force, [study.given for study in studies if study.given])
    weight = next(next(iter(experiment.sites.values())).model.parameters(), None)
    run["environment"] = environment(torch.device("cpu") if weight is None else weight.device)
    experiment.folder = folder / DICTIONARIES
    experiment.pages = folder / LATENTS
    studies = _with_known(studies, folder)
    found: dict[str, Finding] = {}
    drawn: dict[str, dict[Path, str]] = {}
    for index, study in enumerate(studies):
        if progress:
            print(f"[{index + 1}/{len(studies)}] {study.shows}: {study.title.lower()}", file=sys.stderr, flush=True)
        numbers = _numbers(study, experiment, folder, run)
        finding = found[study.name] = study.found(numbers)
        drawn[study.name] = _draw(finding, folder)
        for name, write in finding.files.items():
            write(folder / name)
        _write_page(folder, studies, found, drawn, run)
    shutil.rmtree(folder / REPLACED, ignore_errors=True)
    return found


def _with_known(studies: Sequence[Study], folder: Path) -> list[Study]:
    """Adds studies that were measured in the folder before, in the order of the page."""
    asked = {study.name: study for study in studies}
    ordered = {study.name: study for study in STUDIES} | asked
    known = {name for name in ordered if (folder / NUMBERS / f"{name}.json").is_file()}
    return [asked.get(name, study) for name, study in ordered.items() if name in asked or name in known]


def _numbers(study: Study, experiment: Experiment, folder: Path, run: Numbers) -> Numbers:
    """Returns the numbers of a study, measured on first use, with numbers that users added to the folder."""
    file = folder / NUMBERS / f"{study.name}.json"
    numbers = read_json(file) if file.is_file() else _measure(study, experiment, folder, run)
    if study.given is not None:
        numbers = {**numbers, "given": {own.name: read_json(own) for own in sorted(folder.glob(study.given))} or None}
    if study.given is not None or not file.is_file():
        write_json(file, numbers)
    return numbers


def _measure(study: Study, experiment: Experiment, folder: Path, run: Numbers) -> Numbers:
    before, begin = run["seconds"].get(study.name, 0.0), time.perf_counter()
    try:
        with experiment.phases(study.name, "measuring"):
            return plain(study.measure(experiment))
    finally:
        # The time of interrupted measurements is included.
        run["seconds"][study.name] = round(before + time.perf_counter() - begin, 1)
        write_json(folder / RUN, run)


def _draw(finding: Finding, folder: Path) -> dict[Path, str]:
    """Writes the figures of a study. Returns their captions by SVG file."""
    return {
        figures.save(drawing.draw(), folder / FIGURES / name)[1]: drawing.caption
        for name, drawing in finding.drawings.items()
    }


def _write_page(
    folder: Path,
    studies: Sequence[Study],
    found: Mapping[str, Finding],
    drawn: Mapping[str, Mapping[Path, str]],
    run: Numbers,
) -> None:
    sections = [
        _section(study, found[study.name], drawn[study.name])
        if study.name in found
        else pages.Section(study.title, aside=study.shows, badge="pending", quote=_typeset(study.claim))
        for study in studies
    ]
    facts = {name.replace("_", " "): _listed(value) for name, value in run["facts"].items()}
    seconds = run["seconds"]
    times = {name: f"{value:,.0f} s" for name, value in seconds.items()}
    times["all"] = f"{sum(seconds.values()):,.0f} s"
    facts |= {name: _listed(value) for name, value in run["environment"].items()}
    sections += [
        pages.Section("Settings", text="The settings of this run.", facts=facts),
        pages.Section("Time", text="Duration of training and measurement, by study.", facts=times),
    ]
    pages.write_overview(
        folder / "index.html",
        sections,
        title="Sparse MLP distillation, replicated",
        lead=_typeset(LEAD),
        lead_links={REPORT_LINK: REPORT_TITLE},
        contents=True,
    )


_UNBROKEN = [(r"(\d) ?%", "\\1\N{NO-BREAK SPACE}%"), (r" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"),
             (r"\b(above|below|about) (-?\d)", "\\1\N{NO-BREAK SPACE}\\2")]  # fmt: skip
"""Patterns of numbers and units that are one word, and their replacements."""


def _typeset(text: str) -> str:
    """Returns text with a space before the percent sign, and without line breaks between a number and its unit."""
    for pattern, replacement in _UNBROKEN:
        text = re.sub(pattern, replacement, text)
    return text


def _typeset_rows(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    return [[_typeset(cell) for cell in row] for row in rows]


def _section(study: Study, finding: Finding, drawn: Mapping[Path, str]) -> pages.Section:
    rows = [("", "the report", "this run"), *((row.what, row.report, row.here) for row in finding.rows)]
    clauses = [("clause", "result", "this run, 95 % interval", "holds if", "the report")]
    clauses += [(part.clause.says, part.result, part.here, part.rule, part.clause.report) for part in finding.clauses]
    links = {f"{NUMBERS}/{study.name}.json": "all numbers of this section"}
    links |= {**finding.links, **dict.fromkeys(finding.files, "the page to rate latents")}
    return pages.Section(
        study.title,
        aside=study.shows,
        badge=finding.verdict,
        quote=_typeset(study.claim),
        text=_typeset(finding.summary),
        lead_rows=_typeset_rows(clauses) if finding.clauses else (),
        rows=_typeset_rows(rows) if finding.rows else (),
        figures={file: _typeset(caption) for file, caption in drawn.items()},
        notes=[_typeset(note) for note in finding.notes],
        links=links,
    )


def _listed(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_listed, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_listed(item)}" for name, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
