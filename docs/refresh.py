"""Puts what a demo found into the README: ``sparsedict demo --out FOLDER``, then ``python docs/refresh.py FOLDER``."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
FIGURE = "distiller-decoder-similarity.png"
TABLE = re.compile(r"(<!-- the demo's table -->\n```text\n).*?(```\n)", re.DOTALL)


def main(folder: Path) -> None:
    shutil.copyfile(folder / "figures" / FIGURE, REPOSITORY / "docs" / "images" / FIGURE)
    readme = REPOSITORY / "README.md"
    table = (folder / "table.txt").read_text(encoding="utf-8").rstrip()
    text, n_places = TABLE.subn(lambda found: f"{found[1]}{table}\n{found[2]}", readme.read_text(encoding="utf-8"))
    if n_places != 1:
        raise SystemExit("README.md has no place for the demo's table.")
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
