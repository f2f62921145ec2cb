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
        descriptor = os.open(beside, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(beside, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the renames within a folder lasting, where the system can do that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
