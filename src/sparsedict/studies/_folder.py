"""A folder of results that replaces what was there as late and as little as possible."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsedict.storage import replace_file

CHECKPOINTS = "checkpoints"
"""Where a run leaves what it can be gone on with from, until its results are there."""

MANIFEST = "files.json"
"""Lists the files of a result; its presence tells that a folder holds one."""


def check_folder(path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Returns the path if results may be written there: a new or empty folder, or one that holds an earlier result.

    Checkpoints of a run that was stopped don't count.

    Args:
        path: The folder.
        force: Whether other things may lie in it.

    Raises:
        FileExistsError: If other things lie in it and ``force`` isn't set.
        NotADirectoryError: If it is a file.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"`path` must be a folder to write results into, but {folder} is a file.")
    if force or not folder.exists() or (folder / MANIFEST).is_file():
        return folder
    names = sorted(item.name for item in folder.iterdir() if item.name != CHECKPOINTS)
    if not names:
        return folder
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    raise FileExistsError(
        f"`path` must be a new or empty folder, or one with an earlier result, but {folder} holds other things "
        f"({shown}). Choose another, or force it: files of the same names are then replaced."
    )


@contextmanager
def filled(folder: Path, *, force: bool = False) -> Iterator[Path]:
    """Gives an empty folder to fill; if that succeeds, its files are put in place of an earlier result's.

    Raises:
        FileExistsError: If other things lie in the folder and ``force`` isn't set.
    """
    check_folder(folder, force=force)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield made
        _put_in_place(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _put_in_place(made: Path, folder: Path) -> None:
    files = sorted(file.relative_to(made).as_posix() for file in made.rglob("*") if file.is_file())
    earlier = _earlier(folder)
    folder.mkdir(exist_ok=True)
    for name in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made / name, target)
    # Figures of a dictionary that is no longer part of the result would be taken for its own.
    for name in earlier - set(files):
        (folder / name).unlink(missing_ok=True)
    replace_file(folder / MANIFEST, lambda file: _write_list(file, files))


def _earlier(folder: Path) -> set[str]:
    """Files of the earlier result, if there is one; paths that lead out of the folder are no files of ours."""
    try:
        names = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        paths = [Path(name) for name in names]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {path.as_posix() for path in paths if not path.is_absolute() and ".." not in path.parts}


def _write_list(file: Path, names: list[str]) -> None:
    file.write_text(json.dumps({"made_by": "sparsedict", "files": names}, indent=1) + "\n", encoding="utf-8")
