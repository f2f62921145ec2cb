"""A room imports only from lower floors (see the table in the design)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparsedict

FLOORS = {
    **dict.fromkeys(
        (
            "_runtime_checks",
            "checks",
            "display",
            "progress",
            "types",
            "batches",
            "latents",
            "selections",
            "torch_state",
        ),
        0.0,
    ),
    **dict.fromkeys(("activations", "norms", "storage", "kernels"), 1.0),
    **dict.fromkeys(("hub",), 1.2),
    **dict.fromkeys(("adapters", "interventions"), 1.5),
    **dict.fromkeys(("dictionaries", "sites"), 2.0),
    **dict.fromkeys(("penalties", "losses"), 2.5),
    **dict.fromkeys(("data", "metrics", "analysis"), 3.0),
    **dict.fromkeys(("training", "formats"), 4.0),
    **dict.fromkeys(("loading",), 4.5),
    **dict.fromkeys(("zoo", "figures", "pages", "demo"), 5.0),
    **dict.fromkeys(("studies",), 6.0),
    **dict.fromkeys(("cli", "__main__", "_public"), 7.0),
}
WITHIN_A_FLOOR = {
    ("latents", "checks"),
    ("latents", "display"),
    ("types", "checks"),
    ("types", "display"),
    ("batches", "display"),
    ("selections", "display"),
    ("selections", "latents"),
    ("analysis", "metrics"),
    ("analysis", "data"),
    ("__main__", "cli"),
}
"""Rooms of one floor that may use each other, in this direction."""

PACKAGE = Path(sparsedict.__path__[0])
MODULES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(tree: ast.Module, file: Path) -> Iterator[tuple[int, str]]:
    """Yields line and room of every import that runs, also those inside functions."""
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                folder = file.parents[node.level - 1].relative_to(PACKAGE.parent)
                module = ".".join((*folder.parts, *filter(None, [module])))
            if module == "sparsedict":
                yield from ((node.lineno, f"sparsedict.{name.name}") for name in node.names)
            else:
                yield node.lineno, module


def violations(source: str, file: Path) -> list[str]:
    room = room_of(file)
    found = []
    for line, module in imported_rooms(ast.parse(source), file):
        if module.partition(".")[0] != "sparsedict":
            continue
        other = module.split(".")[1] if "." in module else "the package itself"
        if other in (room, "__version__") or (room, other) in WITHIN_A_FLOOR:
            continue
        if other not in FLOORS or FLOORS[other] >= FLOORS[room]:
            found.append(f"{file.relative_to(PACKAGE)}:{line}: {room} imports {other}")
    return found


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_rooms_import_from_lower_floors_alone(file: Path) -> None:
    assert room_of(file) in FLOORS, f"{room_of(file)} has no floor yet: add it to the table"
    assert not violations(file.read_text(encoding="utf-8"), file)


@pytest.mark.parametrize(
    ("source", "is_allowed"),
    [
        ("from sparsedict.latents import Support", True),
        ("from sparsedict import checks, kernels", False),
        ("from sparsedict import checks", True),
        ("import sparsedict", False),
        ("import sparsedict.training", False),
        ("def f():\n    from sparsedict.dictionaries import load", False),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sparsedict.dictionaries import load", True),
        ("from . import _relu", True),
        ("from .. import zoo", False),
        ("from ..zoo import load_model", False),
        ("import torch", True),
    ],
)
def test_the_test_itself_sees_what_it_should(source: str, is_allowed: bool) -> None:
    assert bool(violations(source, PACKAGE / "activations" / "_probe.py")) is not is_allowed
