"""Lock files, which give one process at a time access to a folder."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import IO


def take_lock(file: Path) -> IO[bytes] | None:
    """Locks a file until `release_lock` is called or the process ends, however it ends.

    Args:
        file: The file. It is created if necessary.

    Returns:
        The open file, or ``None`` if another process holds the lock. On systems without locks, such as Windows and some
        network file systems, every process gets the lock.

    Raises:
        OSError: If the file can't be written.
    """
    file = file.absolute()  # the working directory may change before the lock is released
    while True:
        stream = file.open("ab")
        try:
            import fcntl
        except ImportError:  # Windows
            return stream
        try:
            # Child processes don't inherit a record lock. They may outlive this process.
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                stream.close()
                return None
        if _is_at(stream, file):
            return stream
        # The holder removed the file after it was opened here, so a lock on it has no effect.
        stream.close()


def release_lock(lock: IO[bytes]) -> None:
    """Removes the file of a lock, and lets other processes take the lock.

    Args:
        lock: The result of `take_lock`.
    """
    file = Path(lock.name)
    # The file is removed while the lock is held, so that no other process has it open.
    with suppress(OSError):
        file.unlink(missing_ok=True)
    lock.close()
    if os.name == "nt":  # Windows can't remove an open file.
        with suppress(OSError):
            file.unlink(missing_ok=True)


def _is_at(stream: IO[bytes], file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    except FileNotFoundError:
        return False
