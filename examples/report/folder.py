"""The folder of a replication: what is measured in it is kept, and an earlier run is lost to none but its successor."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsedict.display import finite
from sparsedict.storage import release_lock, replace_file, take_lock

from .study import Numbers

RUN = "run.json"
NUMBERS = "numbers"
DICTIONARIES = "dictionaries"
FIGURES = "figures"
REPLACED = "replaced-result"
"""Holds an earlier run until the one that replaces it is complete."""
LOCK = ".lock"
"""A file that the process that works in the folder has locked."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of the folder.

    Raises:
        BlockingIOError: If another works in it.
        OSError: If it can't be written to.
    """
    _check_is_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = take_lock(folder / LOCK)
    except OSError as error:
        raise OSError(error.errno, f"`path` must be a folder that can be written to: {error}.") from error
    if lock is None:
        raise BlockingIOError(f"`path` must be the folder of one run, but another process works in {folder}.")
    try:
        yield
    finally:
        release_lock(lock)


def check_replication(path: str | os.PathLike[str], *, force: bool = False) -> Numbers | None:
    """Checks whether a replication may be written to a folder, changing nothing.

    Args:
        path: The folder: a new or empty one, or one with an earlier replication.
        force: Whether other things may lie in it.

    Returns:
        What is known of the earlier run, or ``None``.

    Raises:
        FileExistsError: If other things lie in it and ``force`` isn't set.
        NotADirectoryError: If it is a file.
    """
    folder = Path(path)
    _check_is_folder(folder)
    earlier = read_json(folder / RUN) if (folder / RUN).is_file() else None
    if isinstance(earlier, dict) and "facts" in earlier:
        return earlier
    names = sorted(item.name for item in folder.iterdir()) if folder.exists() else []
    names = [name for name in names if name not in (LOCK, REPLACED)]
    if names and not force:
        listed = ", ".join(names[:4]) + ", ..." * (len(names) > 4)
        raise FileExistsError(
            "`path` must be a new or empty folder, or one with an earlier replication, but "
            f"{folder} holds other things ({listed}). Choose another folder, or pass force=True: files of the same "
            "names are then replaced."
        )
    return None


def begin(folder: Path, facts: Numbers, force: bool, given: Sequence[str]) -> Numbers:
    """Returns what is known of the run in a folder: of an earlier one with the same facts, or of a new one."""
    earlier = check_replication(folder, force=force)
    if earlier is not None:
        if earlier["facts"] == facts:
            return earlier
        changed = [name for name in facts if earlier["facts"].get(name) != facts[name]]
        if not force:
            raise FileExistsError(
                f"`path` must be a new folder, or one with a run of the same settings, but {folder} holds a run with "
                f"another {', '.join(changed[:3]) or 'number of settings'}. Choose another folder, or pass force=True "
                "to begin anew."
            )
        _set_aside(folder, given)
    run: Numbers = {"made_by": "sparsedict", "facts": facts, "seconds": {}}
    write_json(folder / RUN, run)
    return run


def _set_aside(folder: Path, given: Sequence[str]) -> None:
    """Moves an earlier replication aside, until the new one is there."""
    for name in given:
        # What people said of another run's latents isn't of this one's, and isn't ours to delete.
        if (folder / name).is_file():
            numbers = ("", *(f"-{n}" for n in range(2, 1000)))
            free = next(f"earlier{n}-{name}" for n in numbers if not (folder / f"earlier{n}-{name}").exists())
            (folder / name).replace(folder / free)
    aside = folder / REPLACED
    # Where one lies there already, the run in the folder was to replace it and never came to its end.
    is_first = not (aside / RUN).exists()
    names = [NUMBERS, DICTIONARIES, FIGURES, *(page.name for page in sorted(folder.glob("*.html"))), RUN]
    for name in names:
        if not is_first and name != RUN:
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
        elif is_first and (folder / name).exists():
            aside.mkdir(exist_ok=True)
            (folder / name).replace(aside / name)


def _check_is_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"`path` must be a folder to write results into, but {folder} is a file.")


def read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`{file.name}` must be JSON, but {file} can't be read: {error}.") from error


def write_json(file: Path, content: Numbers) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(finite(content), indent=1, allow_nan=False) + "\n"
    replace_file(file, lambda target: _write_text(target, text))


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
