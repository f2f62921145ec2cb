"""All checks, in one command: ``python -m tests`` from the repository's folder.

Every check runs, whatever the verdict of the others. The checks without pytest run beside it, one after the other, and
their output follows when pytest has ended. Arguments go to pytest: ``python -m tests -k topk``. ``--fast`` leaves out
the documentation and the slow tests. ``--only lint types`` runs the named checks alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
CHECKS = {
    "lint": ("ruff", "check", "."),
    "format": ("ruff", "format", "--check", "."),
    "types": ("pyright", "--pythonpath", sys.executable),
    "public types": ("pyright", "--ignoreexternal", "--verifytypes", "sparsedict"),
    "docs": ("sphinx", "-E", "-W", "--keep-going", "-q", "-t", "short", "-b", "html", "docs", "docs/_build/html"),
    "tests": ("pytest", "-q", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"),
}
FAST = ("lint", "format", "types", "tests")
"""Checks of ``--fast``; of the tests, those that aren't marked slow."""


@dataclass(frozen=True)
class Result:
    """How a check ended.

    Attributes:
        name: The check.
        passed: Whether it found nothing.
        seconds: Wall-clock time.
        output: Its text, where it was captured.
    """

    name: str
    passed: bool
    seconds: float
    output: str = ""

    def __str__(self) -> str:
        return f"== {self.name} {'passed' if self.passed else 'FAILED'}, {self.seconds:.0f} s"


def run(name: str, arguments: Sequence[str], environment: Mapping[str, str], *, capture: bool) -> Result:
    """Runs a check to its end."""
    command = (sys.executable, "-m", *CHECKS[name], *arguments)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} if capture else {}
    begin = time.monotonic()
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False, **streams)
    return Result(name, ended.returncode == 0, time.monotonic() - begin, ended.stdout or "")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests", description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), help="checks to run; all by default")
    parser.add_argument("--fast", action="store_true", help=f"{', '.join(FAST)} without the slow tests")
    options, arguments = parser.parse_known_args(arguments)
    chosen = [name for name in options.only if name in FAST or not options.fast]
    if options.fast:
        arguments = ["-m", "not slow", *arguments]
    environment = {
        # Without stored bytecode, each of the many processes that tests start compiles all of its modules.
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        # One thread for each of pytest's workers: two workers that share two cores by threads hold each other up.
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Verifying the public types looks for the package as an installed one, by the first Python on the path.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(REPOSITORY / "src"), os.environ.get("PYTHONPATH")))),
    }
    with ThreadPoolExecutor(1) as beside:
        others = [beside.submit(run, name, (), environment, capture=True) for name in chosen if name != "tests"]
        results = [run("tests", arguments, environment, capture=False)] if "tests" in chosen else []
        for other in others:
            result = other.result()
            print(result.output, end="" if not result.output or result.output.endswith("\n") else "\n")
            print(result, flush=True)
            results.append(result)
    if "tests" in chosen:
        print(results[0])
    failed = [result.name for result in results if not result.passed]
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
