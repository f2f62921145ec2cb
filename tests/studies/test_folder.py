from __future__ import annotations

from pathlib import Path

import pytest

from sparsedict.studies import check_folder
from sparsedict.studies._folder import MANIFEST, filled


def fill(folder: Path, files: dict[str, str], *, force: bool = False) -> None:
    with filled(folder, force=force) as made:
        for name, text in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    files = {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}
    files.pop(MANIFEST, None)
    return files


def test_a_new_an_empty_and_an_earlier_folder_are_filled(tmp_path: Path) -> None:
    fill(tmp_path / "a" / "b", {"x": "1", "d/y": "2"})
    assert contents(tmp_path / "a" / "b") == {"x": "1", "d/y": "2"}
    fill(tmp_path / "a" / "b", {"x": "3"})
    assert contents(tmp_path / "a" / "b") == {"x": "3"}
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty", {"x": "1"})


def test_other_things_are_left_alone_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds other things \(x\)"):
        check_folder(tmp_path)
    with pytest.raises(FileExistsError, match=r"or force it"):
        fill(tmp_path, {"x": "1"})
    assert contents(tmp_path) == {"x": "mine"}
    fill(tmp_path, {"y": "1"}, force=True)
    assert contents(tmp_path) == {"x": "mine", "y": "1"}


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"must be a folder"):
        check_folder(tmp_path / "x", force=True)


def test_an_error_leaves_the_earlier_result(tmp_path: Path) -> None:
    fill(tmp_path / "run", {"x": "1"})

    def fail() -> None:
        with filled(tmp_path / "run") as made:
            (made / "x").write_text("2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert contents(tmp_path / "run") == {"x": "1"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_manifest_cannot_make_it_delete_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    names = f'["../precious", "{(tmp_path / "precious").as_posix()}"]'
    (tmp_path / "run" / MANIFEST).write_text(f'{{"files": {names}}}')
    fill(tmp_path / "run", {"x": "1"})
    assert (tmp_path / "precious").read_text() == "mine"
