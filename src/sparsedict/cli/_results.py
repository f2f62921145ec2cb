"""What a command prints at its end."""

from __future__ import annotations

from pathlib import Path

from sparsedict.cli._stopped import discard
from sparsedict.pages import TokenStrings
from sparsedict.studies import TakenApart


def conclude(taken: TakenApart, out: Path, strings: TokenStrings, *, force: bool) -> None:
    """Writes the results, prints the table, and says where everything lies."""
    files = taken.write(out, strings=strings, force=force)
    discard(out)
    width = max(map(len, files))
    print(taken)
    print()
    for what, path in files.items():
        print(f"{what.ljust(width)}  {path}")
    print(f"\nOpen {files['page'].resolve()} in a browser.")
