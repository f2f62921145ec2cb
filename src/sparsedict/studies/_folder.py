"""Atomic replacement of the results in a folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sparsedict import checks
from sparsedict.storage import sync_folder, sync_tree

CHECKPOINTS = "checkpoints"
"""Subfolder of checkpoints, which is removed when the result is complete."""

MANIFEST = "files.json"
"""File that lists the files of a result. A folder contains a result if this file exists."""

REPLACED = "replaced-result"
"""Subfolder of an earlier result, which is removed when the new result is complete."""

LOCK = ".lock"
"""Name of the file that is locked while a process uses the folder."""

READY = ".result"
"""Subfolder of a complete result while its files are being moved."""

_SCRATCH = ".result-"


def check_folder(path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Returns the path if a result may be written there, which requires a new or empty folder.

    Checkpoints of an interrupted run are ignored.

    Args:
        path: The folder.
        force: Whether to allow an earlier result, which is then replaced, and other files in the folder.

    Raises:
        FileExistsError: If the folder contains an earlier result or other files and ``force`` isn't set.
        NotADirectoryError: If the path is a file.
    """
    folder, force = checks.path("path", path, "a folder"), checks.boolean("force", force)
    check_is_folder(folder)
    if force or not folder.exists():
        return folder
    if has_result(folder):
        raise FileExistsError(
            f"`path` must be a new or empty folder, but {folder} contains an earlier result. Choose another folder, or "
            "pass force=True to replace that result."
        )
    names = other_things(folder, (CHECKPOINTS, REPLACED, LOCK))
    if not names:
        return folder
    raise FileExistsError(
        f"`path` must be a new or empty folder, but {folder} contains other files ({listed(names)}). Choose another "
        "folder, or pass force=True to replace files of the same names."
    )


def check_is_folder(folder: Path) -> None:
    """Checks that a path isn't a file.

    Raises:
        NotADirectoryError: If it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"`path` must be a folder for the results, but {folder} is a file.")


def has_result(folder: Path) -> bool:
    """Returns whether a folder contains a complete result. An interrupted move of its files is completed first."""
    put_in_place(folder)
    return (folder / MANIFEST).is_file()


def other_things(folder: Path, ours: Sequence[str]) -> list[str]:
    """Returns the names in a folder that aren't in ``ours``."""
    return sorted(
        item.name for item in folder.iterdir() if item.name not in ours and not item.name.startswith(_SCRATCH)
    )


def listed(names: Sequence[str]) -> str:
    """Returns the first names as text for a message."""
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


@contextmanager
def staged_result(folder: Path, *, force: bool = False, also: Sequence[str] = ()) -> Iterator[Path]:
    """Returns a context with an empty temporary folder, whose files become the result of ``folder`` on success.

    No file is moved before the new result is complete. If the process is killed while files are being moved,
    `put_in_place` moves the remaining files in the next process.

    Args:
        folder: The folder of the result. It is created if it doesn't exist.
        force: Whether to allow an earlier result, which is then replaced, and other files in the folder.
        also: Files and folders in ``folder`` that become part of the result.

    Raises:
        FileExistsError: If the folder contains an earlier result or other files and ``force`` isn't set.
    """
    check_folder(folder, force=force)
    folder.mkdir(parents=True, exist_ok=True)
    # Inside the folder, which may be on another disk, or the only writable folder.
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
    """Moves the files of a complete result to their final paths, then removes an earlier result."""
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
    """Moves the files of an earlier result, if there is one, to the subfolder ``REPLACED``. Other files are kept."""
    if not (folder / MANIFEST).is_file():
        return
    aside = folder / REPLACED
    if (aside / MANIFEST).is_file():
        # The earlier result there was already replaced by the present result.
        shutil.rmtree(aside)
    # The manifest is moved last, so that the folder counts as one with a result until then.
    for name in [*sorted(earlier_files(folder) - {MANIFEST}), MANIFEST]:
        if (folder / name).is_file():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder / name, aside / name)
            _remove_empty((folder / name).parent, folder)


def restore(folder: Path) -> None:
    """Moves an earlier result back from the subfolder ``REPLACED``."""
    aside = folder / REPLACED
    if not (aside / MANIFEST).is_file() or (folder / MANIFEST).is_file():
        return
    for name in [*sorted(_files(aside) - {MANIFEST}), MANIFEST]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside / name, folder / name)
    shutil.rmtree(aside)


def discard_scratch(folder: Path) -> None:
    """Removes the temporary folders of killed processes. No other process may be writing."""
    for item in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(item, ignore_errors=True)


def earlier_files(folder: Path) -> set[str]:
    """Returns the files of an earlier result. Paths outside of the folder are ignored."""
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
