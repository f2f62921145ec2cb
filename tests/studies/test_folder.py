from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from sparsedict.studies import _folder, check_folder
from sparsedict.studies._folder import MANIFEST, READY, REPLACED, has_result, restore, set_aside, staged_result


def fill(folder: Path, files: dict[str, str], *, force: bool = False) -> None:
    with staged_result(folder, force=force) as made:
        for name, text in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    files = {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}
    files.pop(MANIFEST, None)
    return files


def test_an_earlier_result_is_replaced_if_forced_alone(tmp_path: Path) -> None:
    fill(tmp_path / "a" / "b", {"x": "1", "d/y": "2"})
    assert contents(tmp_path / "a" / "b") == {"x": "1", "d/y": "2"}
    with pytest.raises(FileExistsError, match="contains an earlier result"):
        fill(tmp_path / "a" / "b", {"x": "3"})
    assert contents(tmp_path / "a" / "b") == {"x": "1", "d/y": "2"}
    fill(tmp_path / "a" / "b", {"x": "3"}, force=True)
    assert contents(tmp_path / "a" / "b") == {"x": "3"}
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty", {"x": "1"})


def test_other_things_are_left_alone_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(FileExistsError, match=r"contains other files \(x\)"):
        check_folder(tmp_path)
    with pytest.raises(FileExistsError, match=r"or pass force=True"):
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
        with staged_result(tmp_path / "run", force=True) as made:
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
    fill(tmp_path / "run", {"x": "1"}, force=True)
    assert (tmp_path / "precious").read_text() == "mine"


def test_the_names_of_other_files_are_left_alone(tmp_path: Path) -> None:
    fill(tmp_path, {"figures/a.png": "1"})
    (tmp_path / "figures" / "mine.png").write_text("mine")
    fill(tmp_path, {"table": "2"}, force=True)
    assert contents(tmp_path) == {"table": "2", "figures/mine.png": "mine"}


@pytest.mark.parametrize("n_moves", range(9))
def test_a_kill_while_files_are_moved_loses_neither_result(
    n_moves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after any number of moves, the old result is there whole, or the new one is."""
    old, new = {"x": "1", "d/y": "1", "z": "1"}, {"x": "2", "d/y": "2", "w": "2"}
    fill(tmp_path, old)

    class Killed(BaseException):
        pass

    moves, replace = [], _folder.os.replace

    def then_killed(source: Path, target: Path) -> None:
        if len(moves) == n_moves:
            raise Killed
        moves.append(source)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(_folder.os, "replace", then_killed)
        with pytest.raises(Killed) if n_moves < 8 else nullcontext():
            fill(tmp_path, new, force=True)
    assert (tmp_path / READY).exists() == (n_moves < 8)
    assert has_result(tmp_path)
    assert contents(tmp_path) == new
    assert not (tmp_path / REPLACED).exists()


def test_a_result_that_was_set_aside_can_be_moved_back(tmp_path: Path) -> None:
    fill(tmp_path, {"x": "1", "d/y": "2"})
    (tmp_path / "mine").write_text("mine")
    set_aside(tmp_path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["mine", REPLACED]
    restore(tmp_path)
    assert contents(tmp_path) == {"x": "1", "d/y": "2", "mine": "mine"}
    assert has_result(tmp_path)
