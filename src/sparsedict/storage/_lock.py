"""A folder that one process at a time works in."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import IO


def take_lock(file: Path) -> IO[bytes] | None:
    """Locks a file until `release_lock` is called or the process ends, however it ends.

    Args:
        file: Made where it doesn't exist.

    Returns:
        The open file; ``None`` if another process holds the lock. Where there are no locks, as on Windows and on some
        network file systems, no process is kept out.

    Raises:
        OSError: If the file can't be written.
    """
    file = file.absolute()  # the process may change its folder before it releases the lock
    while True:
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
        if _is_at(stream, file):
            return stream
        # Its holder removed the file after it was opened here: a lock on it keeps nobody out.
        stream.close()


def release_lock(lock: IO[bytes]) -> None:
    """Removes the file of a lock, and lets other processes take the lock.

    Args:
        lock: As `take_lock` returned it.
    """
    file = Path(lock.name)
    # While the lock is held, so that no other process has the file by then.
    with suppress(OSError):
        file.unlink(missing_ok=True)
    lock.close()
    if os.name == "nt":  # An open file can't be removed there.
        with suppress(OSError):
            file.unlink(missing_ok=True)


def _is_at(stream: IO[bytes], file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    except FileNotFoundError:
        return False
