"""Writes measured results into README and documentation.

``python docs/refresh.py demo FOLDER`` takes the table and a figure of ``sparsedict demo --out FOLDER``;
``python docs/refresh.py output PAGE ...`` runs the code of pages and writes the output below each block that shows it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).parents[1]
FIGURE = "distiller-decoder-similarity.png"
TABLE = re.compile(r"(<!-- the demo's table -->\n```text\n).*?(```\n)", re.DOTALL)
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n[^\n`<]+\n)?(?:\n<!-- output -->\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code of a page, and the output that the page shows for it.

    Attributes:
        code: With blank lines before it, so that its lines are those of the page.
        shown: The output on the page; ``None`` where the page shows none.
        span: Where that output stands in the text.
    """

    code: str
    shown: str | None
    span: tuple[int, int]


def blocks(text: str) -> Iterator[Block]:
    """Yields the blocks of Python of a page."""
    for found in BLOCK.finditer(text):
        first_line = text.count("\n", 0, found.start("code"))
        yield Block("\n" * first_line + found["code"], found["output"], found.span("output"))


def run(blocks: list[Block], module: ModuleType, name: str) -> list[str]:
    """Runs the blocks of a page in one namespace and returns what each prints."""
    printed = []
    for block in blocks:
        output = io.StringIO()
        code = compile(block.code, name, "exec", dont_inherit=True)
        with contextlib.redirect_stdout(output):
            exec(code, vars(module))
        printed.append("".join(f"{line.rstrip()}\n" for line in output.getvalue().splitlines()))
    return printed


def refresh_demo(folder: Path) -> None:
    """Writes the demo's table and figure into the README."""
    shutil.copyfile(folder / "figures" / FIGURE, REPOSITORY / "docs" / "images" / FIGURE)
    readme = REPOSITORY / "README.md"
    table = (folder / "table.txt").read_text(encoding="utf-8").rstrip()
    text, n_places = TABLE.subn(lambda found: f"{found[1]}{table}\n{found[2]}", readme.read_text(encoding="utf-8"))
    if n_places != 1:
        raise SystemExit("README.md has no place for the demo's table.")
    readme.write_text(text, encoding="utf-8")


def refresh_output(page: Path) -> None:
    """Runs a page and writes the printed output below the blocks that show it."""
    page = page.resolve()
    sys.path.insert(0, str(REPOSITORY))  # pages may import the package `examples`
    text = page.read_text(encoding="utf-8")
    found = list(blocks(text))
    module = ModuleType("page")
    sys.modules["page"] = module
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            printed = run(found, module, str(page))
        finally:
            os.chdir(before)
    for block, output in reversed(list(zip(found, printed, strict=True))):
        if block.shown is not None:
            text = text[: block.span[0]] + output + text[block.span[1] :]
    page.write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> None:
    match arguments:
        case ["demo", folder]:
            refresh_demo(Path(folder))
        case ["output", _, *_]:
            for page in arguments[1:]:
                refresh_output(Path(page))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
