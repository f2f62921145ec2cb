from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import pytest

from forks import output_of
from sparsedict.storage import release_lock, take_lock

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no locks on Windows")
TAKE = "import sys, pathlib; from sparsedict.storage import take_lock; print(take_lock(pathlib.Path(sys.argv[1])))"


def taken_elsewhere(file: Path) -> bool:
    """Whether another process can take the lock."""
    return output_of(TAKE, file).strip() != "None"


def test_a_released_lock_leaves_no_file_and_can_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lock = take_lock(Path(".lock"))
    assert lock is not None
    assert not taken_elsewhere(tmp_path / ".lock")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    release_lock(lock)
    assert not (tmp_path / ".lock").exists()
    assert taken_elsewhere(tmp_path / ".lock")


def test_a_lock_is_that_of_the_file_at_the_path(tmp_path: Path) -> None:
    """The holder may remove the file between the opening and the locking here."""
    opened: list[IO[Any]] = []

    class Removed(type(tmp_path)):  # type: ignore[misc]
        def open(self, *arguments: Any, **options: Any) -> Any:
            stream = super().open(*arguments, **options)
            if not opened:
                self.unlink()
            opened.append(stream)
            return stream

    lock = take_lock(Removed(tmp_path / ".lock"))
    assert lock is not None
    assert lock is opened[1]
    assert opened[0].closed
    assert not taken_elsewhere(tmp_path / ".lock")
    release_lock(lock)
