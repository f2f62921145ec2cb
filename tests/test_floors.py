"""A room imports only from lower floors, by public names, and modules import each other in no circle.

Imports inside functions and under ``TYPE_CHECKING`` count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
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
            "seeds",
            "selections",
            "signals",
            "splits",
            "torch_state",
        ),
        0.0,
    ),
    **dict.fromkeys(("parallel",), 0.5),
    **dict.fromkeys(("activations", "norms", "storage", "kernels"), 1.0),
    **dict.fromkeys(("hub", "sharding"), 1.2),
    **dict.fromkeys(("adapters", "interventions"), 1.5),
    **dict.fromkeys(("dictionaries", "sites"), 2.0),
    **dict.fromkeys(("penalties", "losses"), 2.5),
    **dict.fromkeys(("data", "metrics", "analysis"), 3.0),
    **dict.fromkeys(("training", "formats", "circuits"), 4.0),
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
    ("seeds", "checks"),
    ("selections", "display"),
    ("selections", "latents"),
    ("selections", "splits"),
    ("splits", "display"),
    ("splits", "latents"),
    ("analysis", "metrics"),
    ("analysis", "data"),
    ("__main__", "cli"),
}
"""Rooms of one floor that may use each other, in this direction."""

PACKAGE = Path(sparsedict.__path__[0])
MODULES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(tree: ast.Module, file: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Yields line, module and imported names of every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name, []) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                folder = file.parents[node.level - 1].relative_to(PACKAGE.parent)
                module = ".".join((*folder.parts, *filter(None, [module])))
            yield node.lineno, module, [name.name for name in node.names]


def imported_rooms(tree: ast.Module, file: Path) -> Iterator[tuple[int, str]]:
    """Yields line and room of every import."""
    for line, module, names in imports(tree, file):
        if module == "sparsedict" and names:
            yield from ((line, f"sparsedict.{name}") for name in names)
        else:
            yield line, module


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


def private_imports(source: str, file: Path) -> list[str]:
    """Returns the imports of private modules, or of private names, of another room."""
    found = []
    for line, module, names in imports(ast.parse(source), file):
        for path in [f"{module}.{name}" for name in names] or [module]:
            package, _, inner = path.partition(".")
            room, *rest = inner.split(".")
            if package == "sparsedict" and room != room_of(file) and any(name.startswith("_") for name in rest):
                found.append(f"{file.relative_to(PACKAGE)}:{line}: {path}")
    return found


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_module_imports_private_modules_of_another_room(file: Path) -> None:
    assert not private_imports(file.read_text(encoding="utf-8"), file)


@pytest.mark.parametrize(
    ("source", "is_allowed"),
    [
        ("from sparsedict.kernels import affine_at", True),
        ("from sparsedict.activations._topk import TopK", True),
        ("from sparsedict.kernels._autograd import affine_at", False),
        ("from sparsedict.kernels import _autograd", False),
        ("import sparsedict.kernels._autograd", False),
        ("def f():\n    from sparsedict.kernels._triton._launch import launch", False),
        ("from ..kernels._autograd import affine_at", False),
        ("from torch._prims import add", True),
    ],
)
def test_imports_of_private_modules_are_seen(source: str, is_allowed: bool) -> None:
    assert bool(private_imports(source, PACKAGE / "activations" / "_probe.py")) is not is_allowed


CIRCLES: list[set[str]] = []
"""Circles that are left. This list only shrinks."""


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(sources: Mapping[Path, str]) -> dict[str, set[str]]:
    """Returns the modules of the package that each module imports, by names without the package's."""
    known = {module_of(file) for file in sources}
    graph: dict[str, set[str]] = {module: set() for module in known}
    for file, source in sources.items():
        for _, module, names in imports(ast.parse(source), file):
            package, _, inner = module.partition(".")
            if package != "sparsedict":
                continue
            for name in names or [""]:
                found = f"{inner}.{name}".strip(".")
                graph[module_of(file)].add(found if found in known else inner)
    return {module: (others & known) - {module} for module, others in graph.items()}


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Returns the sets of modules that reach each other."""
    reached = {module: set(others) for module, others in graph.items()}
    for middle in graph:
        for others in reached.values():
            if middle in others:
                others |= reached[middle]
    found = {
        frozenset(other for other in others if m in reached[other]) for m, others in reached.items() if m in others
    }
    return [set(circle) for circle in found]


def test_no_modules_import_each_other_in_a_circle() -> None:
    found = circles(import_graph({file: file.read_text(encoding="utf-8") for file in MODULES}))
    unknown = [sorted(circle) for circle in found if not any(circle <= left for left in CIRCLES)]
    assert not unknown, f"these modules import each other: {unknown}"
    gone = [sorted(left) for left in CIRCLES if not any(circle <= left for circle in found)]
    assert not gone, f"take these out of `CIRCLES`, for they are circles no more: {gone}"


def test_circles_are_found() -> None:
    sources = {
        PACKAGE / "a" / "__init__.py": "from sparsedict.a._one import x",
        PACKAGE / "a" / "_one.py": "def f():\n    from sparsedict.a._two import y",
        PACKAGE / "a" / "_two.py": "if TYPE_CHECKING:\n    from sparsedict.b import z",
        PACKAGE / "b.py": "from sparsedict.a import _one, _three",
        PACKAGE / "a" / "_three.py": "from sparsedict import c",
        PACKAGE / "c.py": "import torch",
    }
    assert circles(import_graph(sources)) == [{"a._one", "a._two", "b"}]


@pytest.mark.parametrize(
    ("source", "is_allowed"),
    [
        ("from sparsedict.latents import Support", True),
        ("from sparsedict import checks, kernels", False),
        ("from sparsedict import checks", True),
        ("import sparsedict", False),
        ("import sparsedict.training", False),
        ("def f():\n    from sparsedict.dictionaries import load", False),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sparsedict.dictionaries import load", False),
        ("from . import _relu", True),
        ("from .. import zoo", False),
        ("from ..zoo import load_model", False),
        ("import torch", True),
    ],
)
def test_the_floor_check_detects_violations(source: str, is_allowed: bool) -> None:
    assert bool(violations(source, PACKAGE / "activations" / "_probe.py")) is not is_allowed
