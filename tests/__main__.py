"""All checks, in one command: ``python -m tests`` from the repository's folder.

Every check runs, whatever the ones before it said; pytest, which also runs the examples and the documentation's code,
comes last. Arguments go to pytest: ``python -m tests -k topk``. ``--only lint types`` runs the named checks alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
CHECKS = {
    "lint": ("ruff", "check", "."),
    "format": ("ruff", "format", "--check", "."),
    "types": ("pyright", "--pythonpath", sys.executable),
    "public types": ("pyright", "--ignoreexternal", "--verifytypes", "sparsedict"),
    "docs": ("sphinx", "-E", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html"),
    "tests": ("pytest", "-q", "-n", "2", "--dist", "loadfile"),
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests", description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), help="checks to run; all by default")
    options, arguments = parser.parse_known_args(arguments)
    # One thread for each of pytest's workers: two workers that share two cores by threads hold each other up.
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Verifying the public types looks for the package as an installed one, by the first Python on the path.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(REPOSITORY / "src"), os.environ.get("PYTHONPATH")))),
    }
    failed = []
    for name, command in ((name, CHECKS[name]) for name in options.only):
        extra = arguments if name == "tests" else []
        print(f"== {name}: {' '.join((*command, *extra))}", flush=True)
        begin = time.monotonic()
        code = subprocess.call((sys.executable, "-m", *command, *extra), cwd=REPOSITORY, env=environment)
        verdict = "passed" if code == 0 else "FAILED"
        if code != 0:
            failed.append(name)
        if name != "tests":
            print(f"== {name} {verdict}, {time.monotonic() - begin:.0f} s", flush=True)
    earlier = [name for name in failed if name != "tests"]
    if earlier:
        print(f"Also failed, above: {', '.join(earlier)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
