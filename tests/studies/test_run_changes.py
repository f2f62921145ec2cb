"""The options of a run are compared with those of an earlier run in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparsedict.studies._run_changes import changes


def run(working_directory: Path | None = None, **options: Any) -> dict[str, Any]:
    place = {} if working_directory is None else {"working_directory": str(working_directory)}
    return {"options": options, **place}


def test_differences_are_named() -> None:
    found = changes(run(k=3, lr=None), {"k": 4, "lr": None, "skip": True}, Path("x"))
    assert found == ["k was 3 and is 4", "skip was not given and is True"]


def test_another_command_is_the_only_difference() -> None:
    assert changes(run(command="train", k=3), {"command": "demo", "layer": 1}, Path("x")) == [
        "command was 'train' and is 'demo'"
    ]


def test_paths_of_the_same_file_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_text(name)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "a")
    own, other = str(tmp_path / "a" / "data"), str(tmp_path / "b" / "data")
    folder = tmp_path / "b" / "run"
    for before, now, here, is_same in (
        (own, str(tmp_path / "link" / "data"), tmp_path, True),
        (own, "data", tmp_path, True),  # the file is gone, or its name wouldn't be stored as it was given
        (own, other, tmp_path, False),
        ("data", own, tmp_path, False),  # the former may be a name on the hub
        ("data", own, None, True),
        ("data", other, None, True),  # beside the run
        ("data", str(tmp_path / "data"), None, False),
        ("data:en", f"{own}:en", None, True),
    ):
        found = changes(run(here, data=before), {"data": now}, folder)
        assert (not found) is is_same, (before, now)
