"""The folder of a replication, which keeps finished measurements and an earlier run until the new run is complete."""

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
LATENTS = "latents"
REPLACED = "replaced-result"
"""Subfolder of an earlier run, which is removed when the new run is complete."""
LOCK = ".lock"
"""Name of the file that is locked while a process uses the folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Returns a context in which the folder is locked for this process.

    Raises:
        BlockingIOError: If another process uses the folder.
        OSError: If the folder isn't writable.
    """
    _check_is_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = take_lock(folder / LOCK)
    except OSError as error:
        raise OSError(error.errno, f"`path` must be a writable folder: {error}.") from error
    if lock is None:
        raise BlockingIOError(
            f"`path` must be a folder that no other process uses, but another process uses {folder}. Wait for it to "
            "end, or choose another folder."
        )
    try:
        yield
    finally:
        release_lock(lock)


def check_replication(path: str | os.PathLike[str], *, force: bool = False) -> Numbers | None:
    """Checks, without changes, whether a replication may be written to a folder.

    Args:
        path: The folder. It must be new or empty, or contain an earlier replication.
        force: Whether to allow other files in the folder.

    Returns:
        The facts of the earlier run, or ``None``.

    Raises:
        FileExistsError: If the folder contains other files and ``force`` isn't set.
        NotADirectoryError: If the path is a file.
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
            f"{folder} contains other files ({listed}). Choose another folder, or pass force=True to replace files of "
            "the same names."
        )
    return None


def begin(folder: Path, facts: Numbers, force: bool, given: Sequence[str]) -> Numbers:
    """Returns the facts of the run in a folder: of an earlier run with the same settings, or of a new run."""
    earlier = check_replication(folder, force=force)
    if earlier is not None:
        if earlier["facts"] == facts:
            return earlier
        changed = [name for name in facts if earlier["facts"].get(name) != facts[name]]
        if not force:
            raise FileExistsError(
                f"`path` must be a new folder, or one with a run of the same settings, but {folder} holds a run with "
                f"another {', '.join(changed[:3]) or 'number of settings'}. Choose another folder, or pass force=True "
                "to start a new run."
            )
        _set_aside(folder, given)
    run: Numbers = {"made_by": "sparsedict", "facts": facts, "seconds": {}}
    write_json(folder / RUN, run)
    return run


def _set_aside(folder: Path, given: Sequence[str]) -> None:
    """Moves an earlier replication to the subfolder ``REPLACED``."""
    # Ratings by people belong to the latents of the earlier run. They are renamed, not deleted.
    for file in [file for pattern in given for file in sorted(folder.glob(pattern))]:
        numbers = ("", *(f"-{n}" for n in range(2, 1000)))
        free = next(f"earlier{n}-{file.name}" for n in numbers if not (folder / f"earlier{n}-{file.name}").exists())
        file.replace(folder / free)
    aside = folder / REPLACED
    # If the subfolder contains a run already, the run in the folder was interrupted before it replaced that run.
    is_first = not (aside / RUN).exists()
    names = [NUMBERS, DICTIONARIES, FIGURES, LATENTS, *(page.name for page in sorted(folder.glob("*.html"))), RUN]
    for name in names:
        if not is_first and name != RUN:
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
        elif is_first and (folder / name).exists():
            aside.mkdir(exist_ok=True)
            (folder / name).replace(aside / name)


def _check_is_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"`path` must be a folder for the results, but {folder} is a file.")


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
