"""The comparison of scores with readers, from the data in the repository."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import ratings

DOCS = Path(__file__).parents[3] / "docs" / "scores.md"
F1, MAXIMUM, READERS = "with the F1 of rules", "grades with the largest activation", "mean grades of the readers"
EARLIER = "mean grades of the earlier readers"
QUANTITIES = {
    "agreement of both readers: kappa with quadratic weights": [("kappa, quadratic weights", "agreement")],
    "same grade; within one grade": [("same grade", "agreement"), ("within one grade", "agreement")],
    "rank correlation of the readers' grades and F1, all latents": [("all:", F1)],
    "the same, distiller; autoencoder; neurons": [("distiller:", F1), ("autoencoder:", F1), ("neurons:", F1)],
    "sparse latents less simulators, readers": [("sparse latents less simulators:", READERS)],
    "neurons less simulators, readers": [("neurons less simulators:", READERS)],
    "autoencoder less sparse latents, readers": [("autoencoder less sparse latents:", READERS)],
    "rank correlation of grade and largest activation, distiller": [("distiller:", MAXIMUM)],
    "the same, autoencoder; neurons": [("autoencoder:", MAXIMUM), ("neurons:", MAXIMUM)],
}
"""The rows of the second table, and the lines and titles of their printed numbers."""


def read(name: str) -> Any:
    return json.loads((ratings.FOLDER / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def printed() -> str:
    return ratings.results()


@pytest.fixture(scope="module")
def grades() -> dict[str, dict[str, int]]:
    """The grades of each reader by identifier, read from the files themselves."""
    return {
        name: {row["id"]: row["grade"] for row in read(f"ratings-{name}.json")["ratings"]} for name in ratings.READERS
    }


def row(printed: str, start: str, title: str) -> list[float]:
    """Returns the numbers of the first line that starts with a text, after a title."""
    (line, *_) = [line for line in printed.split(title, 1)[1].splitlines() if line.strip().startswith(start)]
    return [float(number) for number in re.findall(r"-?\d+\.\d+", line.strip().removeprefix(start))]


def test_mean_grades_are_those_of_the_files(printed: str, grades: dict[str, dict[str, int]]) -> None:
    kinds: dict[str, list[float]] = {}
    for item in read("key.json")["items"]:
        own = item["dictionary"] if not item["kind"] else f"{item['dictionary']}: {item['kind']}"
        kinds.setdefault(own, []).append(float(np.mean([of[item["id"]] for of in grades.values()])))
    assert sorted(map(len, kinds.values())) == [10, 10, 10, 10]
    for kind, values in kinds.items():
        value, low, high = row(printed, kind, "mean grades of the readers")
        assert value == pytest.approx(np.mean(values), abs=5e-4)
        assert low <= value <= high


def test_kappa_is_that_of_the_confusion_matrix(printed: str, grades: dict[str, dict[str, int]]) -> None:
    first, second = grades.values()
    counts = np.zeros((5, 5))
    for name, grade in first.items():
        counts[grade, second[name]] += 1
    weights = np.subtract.outer(np.arange(5), np.arange(5)) ** 2
    expected = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()
    kappa = 1 - (weights * counts).sum() / (weights * expected).sum()
    assert row(printed, "kappa, quadratic weights", "agreement")[0] == pytest.approx(kappa, abs=5e-4)
    assert f"{np.trace(counts) / counts.sum():.1%}" in printed


def test_rank_correlation_is_that_of_ranks(printed: str, grades: dict[str, dict[str, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    scored = read("scores.json")["dictionaries"]
    pairs = []
    for item in read("key.json")["items"]:
        own = scored[item["dictionary"]]
        score = own["F1"][own["latent"].index(item["latent"])]
        if score is not None:
            pairs.append((np.mean([of[item["id"]] for of in grades.values()]), score))
    assert len(pairs) == 37
    expected = stats.spearmanr(*zip(*pairs, strict=True)).statistic
    assert row(printed, "all:", "with the F1 of rules")[0] == pytest.approx(expected, abs=5e-4)


def test_the_documentation_has_the_printed_numbers(printed: str) -> None:
    text = DOCS.read_text(encoding="utf-8")
    kinds = {
        "distiller, simulators": "distiller: simulator",
        "distiller, sparse latents": "distiller: sparse latent",
        "autoencoder": "autoencoder",
        "neurons": "neurons",
    }
    text = text.split("### Comparison with readers", 1)[1]
    for written, name in kinds.items():
        (line,) = re.findall(rf"^\| {written} \|.*\d.*$", text, re.M)
        of_readers, by_rules, marked, earlier, marked_earlier = (cell.strip() for cell in line.split("|")[2:7])
        for texts, cell in (("texts", marked), ("earlier texts", marked_earlier)):
            assert cell == f"{100 * row(printed, f'{texts}, {name}:', 'share of tokens')[1]:.1f} %"
        for title, cell in ((READERS, of_readers), ("mean grades by rules", by_rules), (EARLIER, earlier)):
            numbers = [float(number) for number in re.findall(r"\d+\.\d+", cell)]
            assert numbers == pytest.approx(row(printed, name, title)[:3], abs=5.1e-3)
    _, _, quantities = text.partition("| quantity | value |")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", quantities, re.M)
    ][1:]
    assert [name for name, _ in rows] == list(QUANTITIES)
    for name, cell in rows:
        for value, (start, title) in zip(cell.split("; "), QUANTITIES[name], strict=True):
            numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", value)]
            tolerance = 0.0 if value.endswith("%") else 5.1e-3
            assert numbers == pytest.approx(row(printed, start, title), abs=tolerance), name


def test_the_documentation_has_the_number_of_graded_latents(printed: str) -> None:
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    (line,) = [own for own in lines if own.startswith("| autoencoder | 3.")]
    skipped = printed.split("mean grades by rules", 1)[1].split("autoencoder", 1)[1].split()[2:5]
    assert f"{skipped[-2]} of 10 latents" in line
    others = [own for own in lines if re.match(r"\| (distiller, s|neurons \| 2)", own)]
    assert len(others) == 3
    assert not any("of 10 latents" in own for own in others)


def test_the_texts_of_readers_name_no_dictionary(tmp_path: Path) -> None:
    ratings.write_texts(tmp_path)
    texts = [(tmp_path / f"{name}.md").read_text(encoding="utf-8") for name in ratings.READERS]
    orders = [re.findall(r"^## (\w+)$", text, re.M) for text in texts]
    names = {item["id"] for item in read("key.json")["items"]}
    assert orders[0] != orders[1]
    assert all(len(order) == 40 and set(order) == names for order in orders)
    for text, word in itertools.product(texts, ("distiller", "autoencoder", "simulator", "neurons")):
        head = text.split("\n## ")[0] + "".join(re.findall(r"^## .*$", text, re.M)[1:])
        assert word not in head


def test_texts_mark_one_token_of_each_example(tmp_path: Path) -> None:
    ratings.write_texts(tmp_path)
    items = {item["id"]: item["examples"] for item in read("set.json")["items"]}
    for name in ratings.READERS:
        text = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
        assert "\N{MATHEMATICAL LEFT ANGLE BRACKET}" not in text
        for own in text.split("\n## ")[1:]:
            lines = re.findall(r"^\d+\. .*【", own, re.M)
            assert len(lines) == own.count("【") == len(items[own[:10]])


def test_the_number_of_marks_tells_no_kind(printed: str) -> None:
    """As many marks for each text. The shares differ only by the lengths of texts, which are cut at document ends."""
    title = "share of tokens that a latent's texts mark"
    kinds = ("neurons", "autoencoder", "distiller: sparse latent", "distiller: simulator")
    before, now = ([row(printed, f"{texts}, {kind}:", title) for kind in kinds] for texts in ("earlier texts", "texts"))
    assert min(own[0] for own in now) == 0.04
    assert max(own[1] for own in now) - min(own[1] for own in now) < 0.002
    assert max(own[2] for own in now) < 0.055
    assert before[3][0] > before[2][2]  # simulators and sparse latents don't even overlap


def test_answers_become_ratings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grades: dict[str, dict[str, int]]
) -> None:
    for file in ratings.FOLDER.iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(ratings, "FOLDER", tmp_path)
    answers = {name: [4 - grade, "a rule"] for name, grade in grades[ratings.READERS[0]].items()}
    (tmp_path / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    ratings.add(ratings.READERS[0], tmp_path / "answers.json", "2026-01-01T00:00:00Z")
    again = ratings.results(tmp_path)
    assert row(again, "kappa, quadratic weights", "agreement")[0] < 0
    answers.popitem()
    (tmp_path / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    with pytest.raises(ValueError, match="must have the identifiers of the set"):
        ratings.add(ratings.READERS[0], tmp_path / "answers.json", "")
