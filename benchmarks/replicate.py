"""Prints the results of a replication: ``python -m benchmarks.replicate FOLDER``.

The texts and rows are computed from the numbers in the folder, as on its page. Nothing is trained or measured. Studies
without numbers are omitted.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS
from examples.report import STUDIES, Finding, Study

WIDTH = 100


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder that `python -m examples.report --out` wrote")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of replicate.json and replicate.txt")
    parser.add_argument("--note", default="", help="a line about the run, such as that the machine was shared")
    args = parser.parse_args(argv)
    run = json.loads((args.folder / "run.json").read_text(encoding="utf-8"))
    found = {s: s.found(numbers) for s in STUDIES if (numbers := _numbers(args.folder, s)) is not None}
    if not found:
        raise SystemExit(f"{args.folder} contains no results of a study.")
    content = {
        "facts": run["facts"],
        "environment": run.get("environment", {}),
        "note": args.note,
        "seconds": run["seconds"],
        "seconds_in_all": round(sum(run["seconds"].values()), 1),
        "studies": {study.name: _told(finding) for study, finding in found.items()},
    }
    text = "\n\n".join(
        [*(_paragraph(study, finding, run["seconds"]) for study, finding in found.items()), _time(content)]
    )
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "replicate.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (args.out / "replicate.txt").write_text(text + "\n", encoding="utf-8")
    print(text)


def _numbers(folder: Path, study: Study) -> dict[str, Any] | None:
    file = folder / "numbers" / f"{study.name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _told(finding: Finding) -> dict[str, Any]:
    clauses = [[part.clause.says, part.clause.report, part.here, part.rule, part.result] for part in finding.clauses]
    rows = [[row.what, row.report, row.here] for row in finding.rows]
    return {"verdict": finding.verdict, "summary": finding.summary, "clauses": clauses, "rows": rows}


def _paragraph(study: Study, finding: Finding, seconds: dict[str, float]) -> str:
    head = f"{study.title} ({study.shows}): {finding.verdict}, {seconds[study.name]:.0f} s"
    clauses = [f"  {part.result}: {part.clause.says}: {part.here}, {part.rule}" for part in finding.clauses]
    return "\n".join([head, textwrap.fill(finding.summary, WIDTH), *clauses])


def _time(content: dict[str, Any]) -> str:
    minutes = content["seconds_in_all"] / 60
    studies = f"{len(content['studies'])} of {len(STUDIES)} studies"
    threads = content["environment"].get("threads", "?")
    total = f"In all {minutes:.1f} minutes for {studies} on {threads} threads, first seed {content['facts']['seed']}."
    return "\n".join(filter(None, [total, content["note"]]))


if __name__ == "__main__":
    main()
