"""Files of ratings and keys: what is written is read, and damaged files are errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsedict.analysis.ratings import KeyItem, Rating, RatingKey, Ratings, read, write
from sparsedict.storage import NewerVersionError, StorageError

KEY = RatingKey("s1", (KeyItem("a", "student", 3, "simulator", 2.5), KeyItem("b", "sae", 7)))


def blind(rows: list[dict[str, Any]], **changes: Any) -> str:
    header = {"format": "sparsedict-ratings", "version": 1, "rater": "anna", "set": "s1"}
    return json.dumps({**header, "ratings": rows, **changes})


def row(identifier: str = "a", grade: Any = 3, **more: Any) -> dict[str, Any]:
    return {"id": identifier, "grade": grade, "time": "2026-01-02T03:04:05Z", **more}


def test_blind_ratings_are_read_with_their_key(tmp_path: Path) -> None:
    KEY.write(tmp_path / "key.json")
    assert RatingKey.read(tmp_path / "key.json") == KEY
    file = tmp_path / "anna.json"
    file.write_text(blind([row(), row("b", "skip")]))
    assert read(file, key=tmp_path / "key.json") == Ratings(
        (
            Rating("anna", "student", 3, 3, "simulator", 2.5, "2026-01-02T03:04:05Z"),
            Rating("anna", "sae", 7, None, "", None, "2026-01-02T03:04:05Z"),
        )
    )


def test_written_ratings_are_read_without_a_key(tmp_path: Path) -> None:
    ratings = Ratings((Rating("Zoë", "sae", 0, 4, "x", 1.5), Rating("Zoë", "sae", 1, None)))
    write(ratings, tmp_path / "new" / "zoe.json")
    assert read(tmp_path / "new" / "zoe.json") == ratings


def test_one_file_has_one_rater(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`ratings` must have one rater for each file, got 2 raters"):
        write(Ratings((Rating("a", "sae", 0, 4), Rating("b", "sae", 0, 4))), tmp_path / "x.json")


def test_two_files_of_one_rater_do_not_rate_a_latent_twice(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).write_text(blind([row()]))
    with pytest.raises(ValueError, match="rater 'anna' rated latent 3 of 'student' twice"):
        read(tmp_path / "x", tmp_path / "y", key=KEY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "isn't valid JSON"),
        ("[]", "must be a JSON object with `format` 'sparsedict-ratings', got 'list'"),
        (blind([row()], format="other"), "got 'other'"),
        (blind([row()], version=0), "`version` must be at least 1, got 0"),
        (blind([row()], rater=" "), "`rater` must be the name of the rater"),
        (blind([row()], set="s2"), "belongs to the set 's2', and `key` to the set 's1'"),
        (blind([row()], surprise=1), "unexpected keys: 'surprise'"),
        (blind([row("c")]), "rating 0: `key` has no item 'c'"),
        (blind([row(grade=5)]), "rating 0: `grade` must be an integer from 0 to 4, or 'skip', got 5"),
        (blind([row(grade=-1)]), "or 'skip', got -1"),
        (blind([row(grade=2.5)]), "or 'skip', got 2.5"),
        (blind([row(grade=True)]), "or 'skip', got True"),
        (blind([row(grade="4")]), "or 'skip', got '4'"),
        (blind([row(grade=None)]), "`grade` must be an integer from 0 to 4, or 'skip', got None"),
        (blind([row(comment="x")]), "rating 0 has unexpected keys: 'comment'"),
        (blind([{"id": "a", "grade": 1}]), "rating 0 lacks the key `time`"),
        (blind([7]), "rating 0 must be an object, got 7"),  # type: ignore[list-item]
    ],
)
def test_damaged_files_are_errors(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "anna.json"
    file.write_text(text)
    with pytest.raises(StorageError, match=message) as caught:
        read(file, key=KEY)
    assert "anna.json" in str(caught.value)


def test_blind_ratings_need_their_key(tmp_path: Path) -> None:
    file = tmp_path / "anna.json"
    file.write_text(blind([row()]))
    with pytest.raises(StorageError, match=r"need the key of their set 's1'. Pass `key=`"):
        read(file)


def test_a_newer_file_says_so(tmp_path: Path) -> None:
    file = tmp_path / "anna.json"
    file.write_text(blind([row()], version=2))
    with pytest.raises(NewerVersionError, match="has version 2 of its format"):
        read(file, key=KEY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": [{"id": "a"}]}, "item 0 lacks the key `maximum`"),
        ({"items": [vars(KEY.items[0])] * 2}, "must contain each identifier once, got 'a' twice"),
        ({"items": [{**vars(KEY.items[0]), "latent": "3"}]}, "`latent` must be an integer"),
        ({"items": [{**vars(KEY.items[0]), "maximum": "3"}]}, "`maximum` must be a number or null"),
        ({"items": [0]}, "item 0 must be an object"),
    ],
)
def test_damaged_keys_are_errors(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "key.json"
    file.write_text(json.dumps({"format": "sparsedict-rating-key", "version": 1, "set": "s1", **change}))
    with pytest.raises(StorageError, match=message):
        RatingKey.read(file)


def test_missing_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`paths` must be files of ratings, but .*nowhere\.json"):
        read(tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match="`paths` must name at least one file"):
        read()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grade": 5}, "`grade` must be an integer from 0 to 4, or None, got 5"),
        ({"latent": -1}, "`latent` must be at least 0"),
        ({"maximum": float("nan")}, "`maximum` must be finite"),
    ],
)
def test_ratings_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rating(**{"rater": "a", "dictionary": "sae", "latent": 0, "grade": 1, **values})


def test_ratings_are_selected_by_dictionary_kind_and_rater() -> None:
    every = Ratings((Rating("a", "x", 0, 1, "k"), Rating("a", "x", 1, 2), Rating("b", "y", 0, None)))
    assert every.raters == ("a", "b")
    assert every.dictionaries == ("x", "y")
    assert len(every.of("x")) == 2
    assert len(every.of("x", "k")) == 1
    assert every.by("b").means() == {}
    assert repr(every) == "Ratings(3 ratings, 1 of them skipped, raters=a, b)"
    assert "skipped" in every._repr_html_()
    with pytest.raises(ValueError, match="`dictionary` must be one of 'x', 'y', got 'z'"):
        every.of("z")
