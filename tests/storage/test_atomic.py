from __future__ import annotations

from pathlib import Path

import pytest

from sparsedict import storage


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    for text in ("first", "second"):
        storage.replace_file(file, lambda path, text=text: path.write_text(text) and None)
        assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("first")

    def half(path: Path) -> None:
        path.write_text("sec")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        storage.replace_file(file, half)
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]


def test_an_interruption_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    storage.replace_folder(folder, lambda path: (path / "old").touch())

    def stopped(path: Path) -> None:
        (path / "new").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.replace_folder(folder, stopped)
    assert [item.name for item in tmp_path.rglob("*")] == ["pages", "old"]


def test_a_folder_that_was_put_aside_by_a_killed_process_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    storage.replace_folder(folder, lambda path: (path / "old").touch())
    folder.rename(tmp_path / ".pages.removing")

    def fails(_: Path) -> None:
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        storage.replace_folder(folder, fails)
    assert [item.name for item in tmp_path.rglob("*")] == ["pages", "old"]
