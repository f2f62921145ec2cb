"""All checks that need a GPU: ``python -m benchmarks.gpu_session --out FOLDER --minutes 8``.

The session runs from a source tree, without an installation of the package and without a network. Each part is a
separate process with a time limit, in the order of importance, so that all parts end within ``--minutes``. After each
part, ``session.json`` and ``session.txt`` contain the results so far, and ``NAME.log`` the output of the part. Parts
whose packages are missing are skipped with a reason. ``--device cpu`` tests the session at toy size.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SPARE_SECONDS = 5.0
"""Time reserved for writing the results."""

LIBRARY = ("torch", "numpy", "safetensors", "jaxtyping", "einops")
"""Packages that the library itself requires. There is a substitute for tqdm."""

TESTS = ("tests/kernels", "tests/dictionaries/test_contract.py", "tests/training/test_deterministic.py")


NO_TESTS = 5
"""Exit code of pytest if all test files were skipped, such as without Triton."""


@dataclass(frozen=True)
class Part:
    """One part of the session.

    Attributes:
        name: Name of the part and its files.
        share: Largest share of the session's time. Later parts can use the remaining time.
        needs: Required packages besides those of the library. The part is skipped if one is missing.
        what: Description of the part.
    """

    name: str
    share: float
    needs: tuple[str, ...]
    what: str


PARTS = (
    Part("check", 0.2, (), "sparse training and encoding against dense float64 on the CPU, for each activation"),
    Part("step", 0.25, (), "a sparse and a dense training step relative to the plain product"),
    Part("fit", 0.25, ("transformers",), "harvest and fit on the embedded model"),
    Part("resume", 0.15, (), "bitwise equality of a resumed and an uninterrupted run with deterministic=True"),
    Part("circuits", 0.15, ("transformers",), "an attribution graph against that of the CPU"),
    Part("tests", 0.5, ("pytest", "beartype", "hypothesis"), "the tests that use a GPU"),
    Part("kernels", 0.6, (), "benchmarks.gpu: bandwidth of each kernel"),
)


def command(part: Part, out: Path, device: str) -> list[str]:
    """Returns the command of a part."""
    if part.name == "tests":
        found = [path for path in TESTS if (ROOT / path).exists()]
        few = ["-k", "capacity", "tests/kernels/test_capacity.py"] if device == "cpu" else found
        return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *few]
    if part.name == "kernels":
        size = ["--shapes", "toy", "--rounds", "1"] if device == "cpu" else ["--rounds", "10"]
        return [sys.executable, "-m", "benchmarks.gpu", "--device", device, "--out", str(out / "kernels.json"), *size]
    return [sys.executable, "-m", "benchmarks.gpu_parts", part.name, "--device", device, "--out", str(out)]


def environment(out: Path) -> dict[str, str]:
    """Returns the environment of the parts: the source tree, and substitutes for packages that only show progress."""
    paths = [str(ROOT / "src"), str(ROOT)]
    if find_spec("tqdm") is None:
        folder = out / "stand-ins" / "tqdm"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text(TQDM)
        (folder / "auto.py").write_text("from tqdm import tqdm\n")
        paths.append(str(folder.parent))
    given = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *([given] if given else [])]), "HF_HUB_OFFLINE": "1"}


TQDM = '''"""Stands in for tqdm where it isn't installed: shows nothing."""


class tqdm:
    def __init__(self, iterable=(), **options):
        self._items = iterable

    def __iter__(self):
        return iter(self._items)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def __getattr__(self, name):
        return lambda *values, **options: None

    @staticmethod
    def format_interval(seconds):
        return f"{seconds:.0f} s"
'''


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Context that handles SIGTERM and Ctrl-C at its end, so that no process starts whose id is unknown."""
    received: list[int] = []
    earlier = {n: signal.signal(n, lambda n, _: received.append(n)) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    for number in received:
        signal.raise_signal(number)


def run(part: Part, out: Path, device: str, seconds: float) -> dict[str, Any]:
    """Runs a part with a time limit, and returns its figures."""
    missing = [name for name in (*LIBRARY, *part.needs) if find_spec(name) is None]
    if missing:
        return {"status": "skipped", "seconds": 0.0, "why": f"not installed: {', '.join(missing)}"}
    start, log, result = time.monotonic(), out / f"{part.name}.log", out / f"{part.name}.json"
    result.unlink(missing_ok=True)
    with log.open("w", encoding="utf-8") as stream:
        process = None
        try:
            with deferred_signals():
                process = subprocess.Popen(
                    command(part, out, device),
                    cwd=ROOT,
                    env=environment(out),
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # Also where the session itself is stopped: a part in a group of its own would go on.
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    status = "timed out" if code is None else "done" if code == 0 else "failed"
    if part.name == "tests" and code == NO_TESTS:
        status = "skipped"
    found: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - start, 1)}
    if result.exists():
        found["figures"] = _finite(json.loads(result.read_text(encoding="utf-8")))
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if code != 0 or part.name == "tests":
        found["why"] = " | ".join(line.strip() for line in lines[-3 if code else -1 :])[-300:]
    return found


def _finite(figures: Any) -> Any:
    """Returns figures as JSON values. Numbers that aren't finite become ``None``."""
    if isinstance(figures, dict):
        return {name: _finite(value) for name, value in figures.items()}
    if isinstance(figures, list):
        return [_finite(value) for value in figures]
    return None if isinstance(figures, float) and not math.isfinite(figures) else figures


def table(results: dict[str, dict[str, Any]]) -> str:
    """Returns a table with a line for each figure."""
    lines = []
    for part in PARTS:
        found = results.get(part.name)
        if found is None:
            continue
        lines.append(f"{part.name:8} {found['status']:9} {found['seconds']:6.1f} s  {part.what}")
        if "why" in found:
            lines.append(f"{'':9}{found['why']}")
        lines += [f"{'':9}{name:52} {_shown(value)}" for name, value in _flat(found.get("figures", {}))]
    return "\n".join(lines) + "\n"


def _flat(figures: Any, name: str = "") -> list[tuple[str, Any]]:
    if not isinstance(figures, dict):
        return [(name, figures)]
    return [pair for key, value in figures.items() for pair in _flat(value, f"{name}, {key}" if name else str(key))]


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def main(argv: list[str] | None = None) -> int:
    """Runs the session, and returns 1 if a part failed or none ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for all results")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit of all parts together")
    parser.add_argument("--device", default="cuda", help="device; cpu runs all parts at toy size")
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS], help="parts to run (default: all)")
    args = parser.parse_args(argv)
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    # SIGTERM has the effect of Ctrl-C: partial results are written, and all child processes end.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    end = time.monotonic() + 60 * args.minutes - SPARE_SECONDS
    results: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        if args.parts and part.name not in args.parts:
            continue
        left = end - time.monotonic()
        if left < 1:
            results[part.name] = {"status": "skipped", "seconds": 0.0, "why": "no time was left"}
        else:
            results[part.name] = run(part, out, args.device, min(left, part.share * 60 * args.minutes))
        (out / "session.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (out / "session.txt").write_text(table(results), encoding="utf-8")
        print(table({part.name: results[part.name]}), end="", flush=True)
    print(f"Results are in {out / 'session.json'} and {out / 'session.txt'}.")
    found = {part["status"] for part in results.values()}
    return int("done" not in found or bool(found & {"failed", "timed out"}))


if __name__ == "__main__":
    sys.exit(main())
