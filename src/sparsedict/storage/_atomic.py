from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Replaces a file by what ``write`` puts into a file beside it: whoever looks sees the old one or the new one.

    Args:
        path: The file to replace; it needn't exist. What a killed writer left beside it goes with the next write.
        write: Writes the new content to the path that it is given.
    """
    # A folder, so that what a killed writer leaves is found by its name, whatever files it makes itself.
    scratch = path.with_name(f".{path.name}.writing")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        beside = scratch / path.name
        write(beside)
        # Renamed before it lies on the disk, the file could be empty after a power cut.
        _sync(beside)
        os.replace(beside, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    sync_folder(path.parent)


def make_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Makes a folder of files at once: whoever looks sees no folder of that name, or the whole of it.

    Args:
        path: The folder; nothing of that name may be there. What a killed writer left goes with the next write.
        fill: Writes files into the folder that it is given.
    """
    scratch = path.with_name(f".{path.name}.writing")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        fill(scratch)
        for file in scratch.iterdir():
            _sync(file)
        sync_folder(scratch)
        scratch.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    sync_folder(path.parent)


def discard_folder(path: Path) -> None:
    """Removes a folder at once: whoever looks sees the whole of it, or no folder of that name."""
    scratch = path.with_name(f".{path.name}.removing")
    shutil.rmtree(scratch, ignore_errors=True)
    path.rename(scratch)
    shutil.rmtree(scratch, ignore_errors=True)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Makes the content of all files of a folder lasting, and the folder itself."""
    for item in folder.rglob("*"):
        if item.is_file():
            _sync(item)
        else:
            sync_folder(item)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Makes the renames within a folder lasting, where the system can do that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
