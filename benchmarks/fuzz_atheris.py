"""Inputs found by what the library's code does with them: run by ``python -m benchmarks.fuzz --atheris SECONDS``.

Needs the package atheris, in an environment that has this library too.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def guided(target: str, seconds: int) -> dict[str, Any]:
    """Lets atheris break one file at a time for so long, and returns what it says of it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __name__, target, str(seconds), folder]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        said = ran.stdout + ran.stderr
    runs = re.search(r"Done (\d+) runs", said) or re.search(r"(?s).*#(\d+)\t", said)
    if runs is None:
        raise SystemExit(said[-2000:])
    covered = re.findall(r"cov: (\d+)", said)
    return {
        "inputs": int(runs.group(1)),
        "crash": int("Uncaught Python exception" in said or "deadly signal" in said or "out-of-memory" in said),
        "hang": int("ERROR: libFuzzer: timeout" in said),
        "seconds": seconds,
        "covered": int(covered[-1]) if covered else 0,
        "cases": [] if ran.returncode == 0 else [said[-1500:]],
    }


def main() -> None:
    import atheris  # pyright: ignore[reportMissingImports]

    with atheris.instrument_imports(include=["sparsedict.storage", "sparsedict.dictionaries", "sparsedict.formats"]):
        import sparsedict  # noqa: F401
    with atheris.instrument_imports(include=["sparsedict.data._shards", "sparsedict.data._store_description"]):
        from benchmarks.fuzz import TARGETS, outcome

    name, seconds, root = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    target, sound, corpus = TARGETS[name], root / "sound", root / "corpus"
    sound.mkdir()
    corpus.mkdir()
    target.write(sound)
    files = sorted(file for file in sound.rglob("*") if file.is_file())
    contents = [file.read_bytes() for file in files]
    for index, content in enumerate(contents):
        (corpus / str(index)).write_bytes(bytes([index]) + content)

    def one(data: bytes) -> None:
        index = data[0] % len(files) if data else 0
        files[index].write_bytes(data[1:])
        what = outcome(target, sound)
        files[index].write_bytes(contents[index])
        if what.startswith("crash"):
            raise RuntimeError(what)

    options = [f"-max_total_time={seconds}", "-timeout=120", "-rss_limit_mb=4096", "-max_len=20000"]
    options += [f"-artifact_prefix={root}/", str(corpus)]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
