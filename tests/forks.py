"""Processes that run code as ``python -c`` does, forked from the test process, which saves the time of imports."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress
from types import TracebackType
from typing import Any


class Forked:
    """A process that runs code.

    Attributes:
        stdout: Its standard output, as lines of text.
        returncode: Its exit status, or the negative number of the signal that ended it, after `wait`.

    Args:
        code: The code.
        arguments: Arguments in ``sys.argv``.
    """

    def __init__(self, code: str, *arguments: object) -> None:
        read, write = os.pipe()
        self.returncode: int | None = None
        self._pid = os.fork()
        if not self._pid:
            _run(code, ["-c", *map(str, arguments)], write)
        os.close(write)
        self.stdout: Any = os.fdopen(read, encoding="utf-8")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self.returncode

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stdout.close()
        if self.returncode is None:
            self.kill()
            self.wait()


def output_of(code: str, *arguments: object) -> str:
    """Runs code to its end, and returns its standard output.

    Raises:
        AssertionError: If its exit status isn't 0.
    """
    with Forked(code, *arguments) as process:
        output = process.stdout.read()
        assert process.wait() == 0, output
    return output


def _run(code: str, arguments: list[str], output: int) -> None:
    status = 1
    try:
        os.dup2(output, 1)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.argv = arguments
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(status)
