"""Atomic replacement and creation of files and folders."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_SINGLE = 64
"""Largest number of files of a folder that are flushed one after the other."""


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Replaces a file atomically: readers see either the old or the new content.

    Args:
        path: The file to replace. It needn't exist. The next call removes temporary files of an interrupted call.
        write: Function that writes the new content to a path.
    """
    # A temporary folder has a known name, so the next call can remove it with all files that `write` created.
    scratch = path.with_name(f".{path.name}.writing")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        beside = scratch / path.name
        write(beside)
        # If the file were renamed before it is on disk, it could be empty after a power failure.
        _sync(beside)
        os.replace(beside, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    sync_folder(path.parent)


def make_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Creates a folder of files atomically: readers see either no folder or the complete one.

    Args:
        path: The folder, which must not exist. The next call removes temporary files of an interrupted call.
        fill: Function that writes the files into a folder.
    """
    with _filled(path, fill) as scratch:
        scratch.rename(path)
    sync_folder(path.parent)


def replace_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Creates a folder of files, in the place of an earlier folder if there is one.

    An error in ``fill`` or an interruption leaves the earlier folder as it is.

    Args:
        path: The folder. The next call removes temporary files of an interrupted call.
        fill: Function that writes the files into a folder.
    """
    earlier = path.with_name(f".{path.name}.removing")
    if earlier.exists() and not path.exists():
        # An earlier call was killed between the two renames below.
        earlier.rename(path)
    with _filled(path, fill) as scratch:
        shutil.rmtree(earlier, ignore_errors=True)
        try:
            if path.exists():
                path.rename(earlier)
            scratch.rename(path)
        except BaseException:
            if earlier.exists() and not path.exists():
                earlier.rename(path)
            raise
        shutil.rmtree(earlier, ignore_errors=True)
    sync_folder(path.parent)


@contextmanager
def _filled(path: Path, fill: Callable[[Path], None]) -> Iterator[Path]:
    """Context with a complete folder of files beside ``path``, on disk. It is removed at the end if it wasn't moved."""
    scratch = path.with_name(f".{path.name}.writing")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        fill(scratch)
        found = list(scratch.rglob("*"))
        _sync_all([file for file in found if file.is_file()])
        for inner in found:
            if inner.is_dir():
                sync_folder(inner)
        sync_folder(scratch)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def discard_folder(path: Path) -> None:
    """Removes a folder atomically: readers see either the complete folder or none."""
    scratch = path.with_name(f".{path.name}.removing")
    shutil.rmtree(scratch, ignore_errors=True)
    path.rename(scratch)
    shutil.rmtree(scratch, ignore_errors=True)


def _sync_all(files: list[Path]) -> None:
    """Flushes files to disk. Many files are flushed at once, which is faster than one after the other."""
    if len(files) > MAX_SINGLE and sys.platform == "linux":
        os.sync()
        return
    for file in files:
        _sync(file)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flushes a folder and all its files to disk."""
    for item in folder.rglob("*"):
        if item.is_file():
            _sync(item)
        else:
            sync_folder(item)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Flushes the entries of a folder to disk, if the system supports it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
