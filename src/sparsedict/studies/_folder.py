"""The folder of a result: nothing finished in it is lost, whenever the writing stops."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sparsedict.storage import sync_folder, sync_tree

CHECKPOINTS = "checkpoints"
"""Holds the checkpoints of a run until its result is there."""

MANIFEST = "files.json"
"""Lists the files of a result; its presence tells that a folder holds one."""

REPLACED = "replaced-result"
"""Holds an earlier result until the one that replaces it is there."""

LOCK = ".lock"
"""A file that the process that works in the folder has locked."""

READY = ".result"
"""Holds a whole result while its files are put in place."""

_SCRATCH = ".result-"


def check_folder(path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Returns the path if a result may be written there: a new or empty folder.

    Checkpoints of a run that was stopped don't count.

    Args:
        path: The folder.
        force: Whether an earlier result may be replaced, and other things may lie in the folder.

    Raises:
        FileExistsError: If an earlier result or other things lie in it and ``force`` isn't set.
        NotADirectoryError: If it is a file.
    """
    folder = Path(path)
    check_is_folder(folder)
    if force or not folder.exists():
        return folder
    if has_result(folder):
        raise FileExistsError(
            f"`path` must be a new or empty folder, but {folder} holds an earlier result. Choose another folder, or "
            "pass force=True to replace that result."
        )
    names = other_things(folder, (CHECKPOINTS, REPLACED, LOCK))
    if not names:
        return folder
    raise FileExistsError(
        f"`path` must be a new or empty folder, but {folder} holds other things ({listed(names)}). Choose another "
        "folder, or pass force=True: files of the same names are then replaced."
    )


def check_is_folder(folder: Path) -> None:
    """Checks that a path isn't that of a file.

    Raises:
        NotADirectoryError: If it is.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"`path` must be a folder to write results into, but {folder} is a file.")


def has_result(folder: Path) -> bool:
    """Whether a folder holds a finished result. One whose writing was cut short is finished first."""
    put_in_place(folder)
    return (folder / MANIFEST).is_file()


def other_things(folder: Path, ours: Sequence[str]) -> list[str]:
    """Returns the names in a folder that aren't among ``ours``."""
    return sorted(
        item.name for item in folder.iterdir() if item.name not in ours and not item.name.startswith(_SCRATCH)
    )


def listed(names: Sequence[str]) -> str:
    """Returns the first names, for a message."""
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


@contextmanager
def filled(folder: Path, *, force: bool = False, also: Sequence[str] = ()) -> Iterator[Path]:
    """Gives an empty folder to fill; if that succeeds, its files become the result of ``folder``.

    The new result is whole before anything is moved. A process that is killed while files are moved leaves the rest to
    the next one that looks: `put_in_place`.

    Args:
        folder: Made where it doesn't exist.
        force: Whether an earlier result may be replaced, and other things may lie in the folder.
        also: Files and folders that are part of the result and lie in ``folder`` already.

    Raises:
        FileExistsError: If an earlier result or other things lie in the folder and ``force`` isn't set.
    """
    check_folder(folder, force=force)
    folder.mkdir(parents=True, exist_ok=True)
    # Within the folder, which may be a disk of its own, or the only place that can be written to.
    made = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
    try:
        yield made
        files = _files(made) | {name for item in also for name in _files(folder, item)}
        _write_manifest(made / MANIFEST, sorted(files))
        sync_tree(made)
        put_in_place(folder)
        made.rename(folder / READY)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    put_in_place(folder)


def put_in_place(folder: Path) -> None:
    """Moves the files of a result that is whole to where they belong; an earlier result goes when all are there."""
    ready = folder / READY
    if not ready.is_dir():
        return
    if (ready / MANIFEST).is_file():
        set_aside(folder)
        for name in sorted(_files(ready) - {MANIFEST}):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(ready / name, target)
        os.replace(ready / MANIFEST, folder / MANIFEST)
        sync_folder(folder)
    shutil.rmtree(ready)
    shutil.rmtree(folder / REPLACED, ignore_errors=True)


def set_aside(folder: Path) -> None:
    """Moves an earlier result, where there is one, into a folder beside it. Other files stay."""
    if not (folder / MANIFEST).is_file():
        return
    aside = folder / REPLACED
    if (aside / MANIFEST).is_file():
        # That one was replaced by the result which is now to be set aside itself.
        shutil.rmtree(aside)
    # The list goes last: until then the folder counts as one with a result.
    for name in [*sorted(earlier_files(folder) - {MANIFEST}), MANIFEST]:
        if (folder / name).is_file():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder / name, aside / name)
            _remove_empty((folder / name).parent, folder)


def restore(folder: Path) -> None:
    """Moves an earlier result that was set aside back."""
    aside = folder / REPLACED
    if not (aside / MANIFEST).is_file() or (folder / MANIFEST).is_file():
        return
    for name in [*sorted(_files(aside) - {MANIFEST}), MANIFEST]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside / name, folder / name)
    shutil.rmtree(aside)


def discard_scratch(folder: Path) -> None:
    """Removes what killed writers left unfinished. No other process may be writing."""
    for item in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(item, ignore_errors=True)


def earlier_files(folder: Path) -> set[str]:
    """Returns the files of an earlier result; paths that lead out of the folder aren't its files."""
    try:
        names = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        paths = [Path(name) for name in names]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {path.as_posix() for path in paths if not path.is_absolute() and ".." not in path.parts}


def _files(folder: Path, item: str = "") -> set[str]:
    start = folder / item
    found = [start] if start.is_file() else start.rglob("*")
    return {file.relative_to(folder).as_posix() for file in found if file.is_file()}


def _remove_empty(folder: Path, top: Path) -> None:
    while folder != top and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _write_manifest(file: Path, names: list[str]) -> None:
    file.write_text(json.dumps({"made_by": "sparsedict", "files": names}, indent=1) + "\n", encoding="utf-8")
