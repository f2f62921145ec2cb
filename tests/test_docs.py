"""The documentation's code runs: the blocks of each page in order, in one namespace."""

from __future__ import annotations

import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import sparsedict as sd

pytestmark = pytest.mark.as_installed  # as users run it, whose errors these are

REPOSITORY = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [
    page
    for page in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
    if "_build" not in page.parts and BLOCK.search(page.read_text(encoding="utf-8"))
]
ROOMS = [room.name for room in pkgutil.iter_modules(sd.__path__) if room.name != "cli" and room.name[0] != "_"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    # A module of its own, for dataclasses look theirs up, and saved dictionaries name it as the owner of their parts.
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for block in BLOCK.finditer(text):
        first_line = text.count("\n", 0, block.start(1))
        code = compile("\n" * first_line + block.group(1), str(page), "exec", dont_inherit=True)
        exec(code, vars(module))


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_a_place_in_the_reference(room: str) -> None:
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (REPOSITORY / "docs" / "api").glob("*.md"))
    assert re.search(rf"automodule:: sparsedict\.{room}$", reference, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in sd.__all__ if not name.islower()])
def test_the_glossary_of_names_is_complete(name: str) -> None:
    index = (REPOSITORY / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    assert re.search(rf"^   ~sparsedict\.[a-z_.]+\.{name}$", index, re.MULTILINE), f"add {name} to docs/api/index.md"
