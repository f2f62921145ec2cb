"""Coverage-guided fuzzing of one target by atheris, started by ``python -m benchmarks.fuzz --atheris SECONDS``.

The package atheris must be installed.
"""

from __future__ import annotations

import sys
from pathlib import Path


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
