"""All studies of the report in one folder, one after the other, each kept as soon as it is done."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sparsedict import figures, pages
from sparsedict.studies import environment

from .bench import Bench
from .folder import (
    DICTIONARIES,
    FIGURES,
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
    "The report that this library began with: its figures, tables and questions, its claims, and the measurements of "
    "this run. Text, tables and figures are made from the numbers of this run alone. A claim is a list of clauses. A "
    "clause holds if the whole 95 % interval of its number, over seeds and held-out text, meets the condition; it "
    "doesn't hold if the whole interval fails it; otherwise the run can't tell. A claim is seen if all of its clauses "
    "hold, partly seen if some do, and not seen if all fail; otherwise the run can't tell."
)


def replicate(
    bench: Bench,
    path: str | os.PathLike[str],
    *,
    studies: Sequence[Study] = STUDIES,
    facts: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: bool = True,
) -> dict[str, Finding]:
    """Runs the report's studies and writes one self-contained folder with a page, figures and numbers.

    Each study's numbers are kept as soon as they are known, each dictionary as soon as it is trained. Run again on the
    same folder with the same facts, it goes on with what isn't there yet; the page is written anew after every study.

    Args:
        bench: Where to work. Its dictionaries are kept in the folder.
        path: The folder; it is made where it doesn't exist.
        studies: Which; the page also shows those of the report's that were measured in the folder before.
        facts: What else the page is to say of the run, such as the model's name.
        force: Whether to begin anew in a folder that holds another run.
        progress: Whether to say on the standard error stream what is being done.

    Returns:
        What was found, by study.

    Raises:
        FileExistsError: If the folder holds another run, or other things, and ``force`` isn't set.
        ImportError: If matplotlib isn't installed.
    """
    folder = Path(path)
    facts = plain({**(facts or {}), "seed": bench.seed, **bench.setting.to_dict()})
    with locked(folder):
        return _run(bench, folder, studies, facts, force, progress)


def _run(
    bench: Bench, folder: Path, studies: Sequence[Study], facts: Numbers, force: bool, progress: bool
) -> dict[str, Finding]:
    run = begin(folder, facts, force, [study.given for study in studies if study.given])
    weight = next(next(iter(bench.sites.values())).model.parameters(), None)
    run["environment"] = environment(torch.device("cpu") if weight is None else weight.device)
    bench.folder = folder / DICTIONARIES
    studies = _with_known(studies, folder)
    found: dict[str, Finding] = {}
    drawn: dict[str, dict[Path, str]] = {}
    for index, study in enumerate(studies):
        if progress:
            print(f"[{index + 1}/{len(studies)}] {study.shows}: {study.title.lower()}", file=sys.stderr, flush=True)
        numbers = _numbers(study, bench, folder, run)
        finding = found[study.name] = study.found(numbers)
        drawn[study.name] = _draw(finding, folder)
        for name, write in finding.files.items():
            write(folder / name)
        _write_page(folder, studies, found, drawn, run)
    shutil.rmtree(folder / REPLACED, ignore_errors=True)
    return found


def _with_known(studies: Sequence[Study], folder: Path) -> list[Study]:
    """Adds those that were measured here before, in the order of the page: it is to lose nothing."""
    asked = {study.name: study for study in studies}
    order = {study.name: study for study in STUDIES} | asked
    known = {name for name in order if (folder / NUMBERS / f"{name}.json").is_file()}
    return [asked.get(name, study) for name, study in order.items() if name in asked or name in known]


def _numbers(study: Study, bench: Bench, folder: Path, run: Numbers) -> Numbers:
    """Returns a study's numbers, measured now if they weren't before, with what people have given since."""
    file = folder / NUMBERS / f"{study.name}.json"
    numbers = read_json(file) if file.is_file() else _measure(study, bench, folder, run)
    given = None if study.given is None else folder / study.given
    if given is not None:
        numbers = {**numbers, "given": read_json(given) if given.is_file() else None}
    if given is not None or not file.is_file():
        write_json(file, numbers)
    return numbers


def _measure(study: Study, bench: Bench, folder: Path, run: Numbers) -> Numbers:
    before, begin = run["seconds"].get(study.name, 0.0), time.perf_counter()
    try:
        with bench.phases(study.name, "measuring"):
            return plain(study.measure(bench))
    finally:
        # What was spent on a study that was stopped belongs to it too.
        run["seconds"][study.name] = round(before + time.perf_counter() - begin, 1)
        write_json(folder / RUN, run)


def _draw(finding: Finding, folder: Path) -> dict[Path, str]:
    """Writes a study's figures; returns their captions by SVG file."""
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
        else pages.Section(study.title, aside=study.shows, badge="still to come", quote=study.claim)
        for study in studies
    ]
    facts = {name.replace("_", " "): _listed(value) for name, value in run["facts"].items()}
    seconds = run["seconds"]
    times = {name: f"{value:,.0f} s" for name, value in seconds.items()}
    times["all"] = f"{sum(seconds.values()):,.0f} s"
    facts |= {name: _listed(value) for name, value in run["environment"].items()}
    sections += [
        pages.Section("Settings", text="The settings of this run.", facts=facts),
        pages.Section("Time", text="Training and measuring, study by study.", facts=times),
    ]
    pages.write_overview(
        folder / "index.html",
        sections,
        title="Sparse MLP distillation, replicated",
        lead=LEAD,
        lead_links={REPORT_LINK: REPORT_TITLE},
        contents=True,
    )


def _section(study: Study, finding: Finding, drawn: Mapping[Path, str]) -> pages.Section:
    rows = [("", "the report", "this run"), *((row.what, row.report, row.here) for row in finding.rows)]
    clauses = [("clause", "result", "this run, 95 % interval", "holds if", "the report")]
    clauses += [(part.clause.says, part.result, part.here, part.rule, part.clause.report) for part in finding.clauses]
    links = {f"{NUMBERS}/{study.name}.json": "every number of this section"}
    links |= dict.fromkeys(finding.files, "the texts")
    return pages.Section(
        study.title,
        aside=study.shows,
        badge=finding.verdict,
        quote=study.claim,
        text=finding.summary,
        lead_rows=clauses if finding.clauses else (),
        rows=rows if finding.rows else (),
        figures=drawn,
        notes=finding.notes,
        links=links,
    )


def _listed(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_listed, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_listed(item)}" for name, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
