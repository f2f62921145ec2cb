"""The figures of the page *Scores* are those of the stored results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.scores import RESULTS

PAGE = Path(__file__).parents[3] / "docs" / "scores.md"
ROWS = {
    "planted on a word": ("calibration", "planted, the word"),
    "planted on a word: the same, ideal states": ("calibration", "planted, the word, ideal states"),
    "planted on the token after a word": ("calibration", "planted, the token after it"),
    "planted on the token after a word: the same, ideal states": (
        "calibration",
        "planted, the token after it, ideal states",
    ),
    "shuffled": ("calibration", "shuffled"),
    "shuffled 40 times": ("nulls", "scores"),
    "random directions": ("calibration", "random directions"),
    "chance": ("calibration", "shuffled"),
    **{name: ("dictionaries", name) for name in ("distiller", "autoencoder", "neurons")},
}
"""The rows of the page, and where their numbers are stored."""
LEFT_OUT = "the same, ideal states"
"""Rules don't depend on the states, so this row has no F1."""


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def tables() -> list[dict[str, dict[str, str]]]:
    """Returns the cells of both tables by row and column."""
    text = PAGE.read_text(encoding="utf-8").split("## Measurements", 1)[1].split("### Comparison", 1)[0]
    found = []
    for part in text.split("| latents |")[1:]:
        lines = [line for line in f"| latents |{part}".splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        named, before = {}, ""
        for row in rows[2:]:
            before = before if row[0] == LEFT_OUT else row[0]
            named[row[0] if row[0] != LEFT_OUT else f"{before}: {LEFT_OUT}"] = dict(
                zip(rows[0][1:], row[1:], strict=True)
            )
        found.append(named)
    return found


def expected(column: str, name: str, row: dict[str, Any]) -> str:
    score = row.get("rule" if column in ("rule, F1", "mean grade") else column)
    if score is not None and "error" in score:
        return f"{score['mean']:.4f} ± {score['error']:.4f}"
    if score is None or (column == "rule, F1" and name.endswith(LEFT_OUT)):
        return ""
    if name == "chance":
        return f"{score['chance']:.3f}"
    if column == "mean grade":
        return f"{sum(grade * n for grade, n in enumerate(score['grades'])) / score['n_scored']:.2f}"
    mean = score["mean"]
    interval = "" if mean["low"] is None else f" [{mean['low']:.3f}, {mean['high']:.3f}]"
    return f"{mean['value']:.3f}{interval}"


def test_every_cell_is_the_stored_number(stored: dict[str, Any]) -> None:
    first, second = tables()
    assert len(first) + len(second) == len(ROWS)
    for name, cells in (first | second).items():
        kind, row = ROWS[name]
        for column, cell in cells.items():
            assert cell == expected(column, name, stored[kind][row]), (name, column)


def test_every_stored_row_is_on_the_page(stored: dict[str, Any]) -> None:
    tables = {(kind, row) for kind in ("calibration", "dictionaries") for row in stored[kind]}
    assert set(ROWS.values()) == tables | {("nulls", "scores")}
    assert f"shuffled {stored['nulls']['n_shuffles']} times" in ROWS


def test_shuffled_latents_score_at_chance(stored: dict[str, Any]) -> None:
    for name, row in stored["nulls"]["scores"].items():
        if name != "rule":
            assert abs(row["mean"] - row["chance"]) < 2 * row["error"], name
    rule = stored["nulls"]["scores"]["rule"]
    assert rule["mean"] < rule["chance"]  # that of a rule that always holds


def test_the_text_states_the_settings(stored: dict[str, Any]) -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    settings = stored["settings"]
    assert f"Dictionaries of {settings['n_latents']} latents, TopK({settings['k']})" in text
    assert f"trained on {settings['n_train']:,} tokens" in text
    assert f"on {round(settings['n_tokens'], -3):,} tokens of the embedded model's text" in text
    limited = stored["calibration"]["planted, the token after it"]["intruder"]["mean"]["value"]
    assert f"scores {limited:.3f}. With ideal states" in text
