from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Replaces a file by what ``write`` puts into a file beside it: whoever looks sees the old one or the new one.

    Args:
        path: The file to replace; it needn't exist.
        write: Writes the new content to the path that it is given.
    """
    beside = path.with_name(f"{path.name}.tmp")
    try:
        write(beside)
        # Renamed before it lies on the disk, the file could be empty after a power cut.
        descriptor = os.open(beside, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
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
