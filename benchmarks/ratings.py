"""Do scores without readers agree with readers? ``python -m benchmarks.ratings``.

Language-model readers, not people, graded forty latents of the run of ``sparsedict demo --out RUN`` from 0 to 4: ten
simulators and ten sparse latents of the distiller, ten latents of the autoencoder, and ten neurons. A reader saw the
texts of all latents in a random order, without the names of their dictionaries, and nothing else. The data is in
``results/ratings``. The steps that made it:

- ``sparsedict rate RUN --n-per-kind 10 --n-tokens 200k --ratings benchmarks/results/ratings --out rate.html`` drew the
  latents;
- ``python -m benchmarks.ratings texts FOLDER`` wrote the texts of two readers;
- ``python -m benchmarks.ratings add NAME ANSWERS`` reads the answers of a reader;
- ``python -m benchmarks.ratings score RUN`` computes the rule scores of the same latents on held-out text.

Without arguments, the command prints table 1, the agreement of two readers, and rank correlations of grades with rule
scores and with maxima, with 95 % bootstrap intervals over latents. Texts mark the strongest token of each example. Two
earlier readers saw texts that marked all tokens with at least a tenth of the latent's largest activation, whose number
can reveal the kind of a latent. The command prints their grades as well, and the shares of marked tokens.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch

from sparsedict.analysis import ratings, scores
from sparsedict.analysis.ratings import RatingKey, Ratings
from sparsedict.cli._finished_run import finished_run
from sparsedict.pages.rating import RUBRIC, RatingItem, RatingSet

FOLDER = Path(__file__).parent / "results" / "ratings"
N_TOKENS = 100_000
"""Number of held-out tokens of the rule scores."""
READERS = ("reader-3", "reader-4")
EARLIER_READERS = ("reader-1", "reader-2")
"""Readers of texts with more marks."""
INSTRUCTIONS = """\
# Latents to grade

Each item is a hidden unit of a small language model of Python source code. You see the texts on which it is most
active, the strongest first. The token on which it is strongest is written as 【token】. Other tokens on which it is
active aren't marked. ↵ is a line break, · a space at which a token is not otherwise visible, and
·\N{MULTIPLICATION SIGN}19 are 19 spaces. The texts are cut at both ends. Tokens are parts of words.

Judge how well ONE rule explains the strongest tokens of an item. A rule may speak of the token, of the tokens before
it, or of its role in the code. Grade each item from 0 to 4:
"""
FORM = """\
Answer with one JSON object, in the order of the items: the identifier of each item, its grade, and the rule in one line
(for grade 0, say what you tried). Use "skip" as the grade only if you can't judge an item.

    {"0123456789": [3, "the name after `import`"], ...}

Judge each item by itself. Use no other file and no tool that tells more about the units.
"""


def text_of(found: RatingSet, seed: int) -> str:
    """Returns the items of a set in a random order, with the rubric, as text without the names of dictionaries."""
    items = list(found.items)
    random.Random(seed).shuffle(items)
    rubric = [
        f"- **{own.grade}, {own.name}.** {own.rule} Example: {'; '.join(own.examples)}. {own.reason}" for own in RUBRIC
    ]
    return "\n\n".join([INSTRUCTIONS.strip(), "\n".join(rubric), FORM.strip(), *map(_item, items)]) + "\n"


def _item(item: RatingItem) -> str:
    lines = [f"{number}. {_example(*example)}" for number, example in enumerate(item.examples, 1)]
    return "\n".join([f"## {item.id}", "", *lines])


def _example(texts: tuple[str, ...], peak: int) -> str:
    return "".join(f"【{text}】" if place == peak else text for place, text in enumerate(texts))


def write_texts(folder: Path) -> None:
    """Writes the texts of two readers."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, reader in enumerate(READERS, 3):
        (folder / f"{reader}.md").write_text(text_of(RatingSet.read(FOLDER), seed), encoding="utf-8")


def add(reader: str, answers: Path, date: str) -> None:
    """Writes the ratings and the rules of a reader from the answers, a grade and a rule by identifier."""
    given: dict[str, Any] = json.loads(answers.read_text(encoding="utf-8"))
    key = RatingKey.read(FOLDER / "key.json")
    if missing := key.by_id.keys() ^ given.keys():
        raise ValueError(f"`answers` must have the identifiers of the set, but differ in {sorted(missing)[:4]}.")
    rows = [{"id": name, "grade": grade, "time": date} for name, (grade, _) in given.items()]
    ratings.write_blind(FOLDER / f"ratings-{reader}.json", reader, key, rows)
    about = {"reader": reader, "kind": "a language-model reader, not a person", "date": date}
    _write(FOLDER / f"rules-{reader}.json", {**about, "rules": {name: rule for name, (_, rule) in given.items()}})


def score(run: Path) -> None:
    """Writes the rule scores of the rated latents."""
    loaded, key = finished_run(run, progress=False), RatingKey.read(FOLDER / "key.json")
    (part,) = loaded.parts
    tokens = loaded.held_out[: N_TOKENS // loaded.held_out.shape[1]]
    found = {}
    for kind, dictionary in part.units().items():
        latents = sorted(item.latent for item in key.items if item.dictionary == kind)
        text = scores.record(
            part.site,
            dictionary,
            tokens,
            strings=loaded.strings,
            latents=latents,
            above=0.0 if kind == "neurons" else None,
        )
        of = scores.RuleScore()(text)
        columns = {"F1": of.value, "grade": of.columns["grade"]}
        found[kind] = {"latent": latents, "rule": of.words} | {
            column: [None if value != value else round(value, 4) for value in values.tolist()]
            for column, values in columns.items()
        }
    _write(FOLDER / "scores.json", {"n_tokens": tokens.numel(), "dictionaries": found})


def results(folder: Path = FOLDER) -> str:
    """Returns all numbers as text."""
    found, earlier = (_grades(folder, names) for names in (READERS, EARLIER_READERS))
    document = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    automatic = _automatic(RatingKey.read(folder / "key.json"), document)
    lines = [*_table("mean grades of the readers", found), "", *_table("mean grades by rules, same latents", automatic)]
    lines += ["", *_table("mean grades of the earlier readers, who saw more marks", earlier)]
    for column in ("F1", "grade"):
        values = {name: _tensor(_of(document, name, column)) for name in found.dictionaries}
        lines += ["", f"rank correlation of the readers' grades with the {column} of rules"]
        lines += [f"  all: {ratings.rank_correlation(found, values)}"]
        lines += [f"  {name}: {ratings.rank_correlation(found.of(name), values)}" for name in found.dictionaries]
    for who, of in (("the readers' grades", found), ("grades by rules", automatic)):
        lines += ["", f"rank correlation of {who} with the largest activation"]
        lines += [f"  {name}: {ratings.rank_correlation(of.of(name))}" for name in of.dictionaries]
    for own in (found, earlier):
        lines += ["", f"agreement of {' and '.join(own.raters)}", str(ratings.agreement(own))]
    lines += ["", "share of tokens that a latent's texts mark: smallest, mean, largest", *_marked(folder)]
    return "\n".join(lines)


def _grades(folder: Path, readers: tuple[str, ...]) -> Ratings:
    return ratings.read(*(folder / f"ratings-{name}.json" for name in readers), key=folder / "key.json")


def _marked(folder: Path) -> list[str]:
    """Returns the shares of marked tokens by kind: at least 10 % of the latent's maximum, and the peaks alone."""
    items = json.loads((folder / "set.json").read_text(encoding="utf-8"))["items"]
    key = RatingKey.read(folder / "key.json").items
    kinds = {own.id: f"{own.dictionary}: {own.kind}" if own.kind else own.dictionary for own in key}
    shares: dict[str, dict[str, list[float]]] = {"earlier texts": {}, "texts": {}}
    for item in items:
        texts = [(activations, peak) for _, activations, peak in item["examples"]]
        n = sum(len(activations) for activations, _ in texts)
        above = sum(share > 9 for activations, _ in texts for share in activations)
        for rule, count in zip(shares, (above, len(texts)), strict=True):
            shares[rule].setdefault(kinds[item["id"]], []).append(count / n)
    return [
        f"{rule}, {kind}: {min(own):.3f} {sum(own) / len(own):.3f} {max(own):.3f}"
        for rule, of in shares.items()
        for kind, own in of.items()
    ]


def _table(title: str, found: Ratings) -> list[str]:
    table, sparse, simulator = ratings.table(found), "distiller: sparse latent", "distiller: simulator"
    return [
        title,
        str(table),
        f"sparse latents less simulators: {table.difference(sparse, simulator)}",
        f"neurons less simulators: {table.difference('neurons', simulator)}",
        f"autoencoder less sparse latents: {table.difference('autoencoder', sparse)}",
    ]


def _automatic(key: RatingKey, document: dict[str, Any]) -> Ratings:
    """Returns the grades by rules as ratings. A latent without a score is skipped."""
    found = []
    for item in key.items:
        grade = _of(document, item.dictionary, "grade")[item.latent]
        whole = None if grade is None else int(grade)
        found.append(ratings.Rating("rules", item.dictionary, item.latent, whole, item.kind, item.maximum))
    return Ratings(tuple(found))


def _of(document: dict[str, Any], dictionary: str, column: str) -> dict[int, float | None]:
    of = document["dictionaries"][dictionary]
    return dict(zip(of["latent"], of[column], strict=True))


def _tensor(values: dict[int, float | None]) -> torch.Tensor:
    found = torch.full((max(values) + 1,), torch.nan)
    for latent, value in values.items():
        found[latent] = torch.nan if value is None else value
    return found


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("texts").add_argument("folder", type=Path)
    commands.add_parser("score").add_argument("run", type=Path)
    adding = commands.add_parser("add")
    adding.add_argument("reader")
    adding.add_argument("answers", type=Path)
    adding.add_argument("--date", default="", help="date of the answers, such as 2026-11-28T04:50:00Z")
    args = parser.parse_args()
    if args.command == "texts":
        write_texts(args.folder)
    elif args.command == "score":
        score(args.run)
    elif args.command == "add":
        add(args.reader, args.answers, args.date)
    else:
        print(results())


if __name__ == "__main__":
    main()
