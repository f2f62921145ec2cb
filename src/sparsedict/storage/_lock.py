"""A folder that one process at a time works in."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import IO


def take_lock(file: Path) -> IO[bytes] | None:
    """Locks a file until it is closed or the process ends, however it ends.

    Args:
        file: Made where it doesn't exist.

    Returns:
        The open file; ``None`` if another process holds the lock. Where there are no locks, as on Windows and on some
        network file systems, no process is kept out.

    Raises:
        OSError: If the file can't be written.
    """
    stream = file.open("ab")
    try:
        import fcntl
    except ImportError:  # Windows
        return stream
    try:
        # A record lock, which children of this process don't inherit: they may outlive it.
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            stream.close()
            return None
    return stream
