"""What is written about the project agrees with itself, and its docstrings are read as they are meant."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparsedict as sd

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "src" / "sparsedict"
REPORT = "https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation"


@pytest.mark.parametrize("file", ["pyproject.toml", "CITATION.cff"])
def test_the_version_is_the_same_everywhere(file: str) -> None:
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    assert re.search(r'^version(?: =|:) "?([^"\n]+)"?$', text, re.MULTILINE).group(1) == sd.__version__  # type: ignore[union-attr]


def test_every_requirement_is_locked() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    locked = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").lower().replace("-", "_")
    for block in re.findall(r"^(?:dependencies|\w+) = \[(.*?)\]$", project, re.MULTILINE | re.DOTALL):
        for name in re.findall(r'"([A-Za-z_-]+)(?=[>=<]=)', block):
            assert name == "hatchling" or re.search(rf"^{name.lower().replace('-', '_')}==", locked, re.MULTILINE), name


def test_no_locked_package_belongs_to_one_build_of_pytorch() -> None:
    assert not re.search(r"^(nvidia|cuda)", (REPOSITORY / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)


PAGES = [REPOSITORY / "README.md", REPOSITORY / "CITATION.cff", *sorted((REPOSITORY / "docs").glob("*.md"))]
MODULES = sorted(PACKAGE.rglob("*.py"))
EXAMPLES = sorted((REPOSITORY / "examples").rglob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_that_names_the_report_links_to_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if re.search(r"\bthe report\b", text, re.IGNORECASE) and page.name != "decisions.md":
        assert REPORT in text


def test_a_source_is_named_by_author_and_title() -> None:
    for module in MODULES:
        text = module.read_text(encoding="utf-8")
        assert not re.search(r"Source:[^.]*\b(the|this library's) report\b", text), module


def test_slow_tests_are_listed_by_names_that_exist(request: pytest.FixtureRequest) -> None:
    tests = Path(__file__).parent
    conftest = request.config.pluginmanager.get_plugin(str(tests / "conftest.py"))
    assert conftest is not None
    for name in conftest.SLOW:
        assert (tests / name.partition("::")[0]).exists(), name


def test_every_module_says_in_its_first_line_what_it_is_for() -> None:
    for module in (*MODULES, *EXAMPLES):
        assert ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))), module


FACTORIES = {"arange", "as_tensor", "empty", "eye", "full", "ones", "rand", "randint", "randn", "randperm", "zeros"}
FACTORIES |= {"linspace", "sparse_csr_tensor", "tensor"}


def test_every_new_tensor_has_a_device() -> None:
    # Without it, `torch.set_default_device` of the caller would decide.
    for module in (path for path in MODULES if path.name != "build.py"):
        for call in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and ast.unparse(call.func.value) == "torch"
                and call.func.attr in FACTORIES
            ):
                assert {"device", None} & {keyword.arg for keyword in call.keywords}, f"{module}:{call.lineno}"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of this repository."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    code = "import sys; from hatchling import build; build.build_wheel(sys.argv[1]); build.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, folder], check=True, cwd=REPOSITORY, capture_output=True)
    return folder


def test_the_wheel_holds_the_library_alone(distributions: Path) -> None:
    names = zipfile.ZipFile(next(distributions.glob("*.whl"))).namelist()
    assert {name.partition("/")[0] for name in names} == {"sparsedict", f"sparsedict-{sd.__version__}.dist-info"}
    modules = {name for name in names if name.endswith(".py")}
    assert modules == {f"sparsedict/{module.relative_to(PACKAGE).as_posix()}" for module in MODULES}


def test_the_sdist_holds_the_examples(distributions: Path) -> None:
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {script.relative_to(REPOSITORY).as_posix() for script in EXAMPLES} <= names
    assert "tests/examples_report/test_command.py" in names


def private_uses(source: str) -> list[str]:
    """Lists the private modules and attributes of the library that a script uses."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.startswith("sparsedict") and "._" in name.name]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "sparsedict":
            path = [*(node.module or "").split("."), *(name.name for name in node.names)]
            found += [name for name in path if name.startswith("_") and name != "__version__"]
        elif isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            found += [] if own else [ast.unparse(node)]
    return found


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.relative_to(REPOSITORY).as_posix())
def test_an_example_uses_public_names_alone(script: Path) -> None:
    assert not private_uses(script.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    [
        "import sparsedict.data._store",
        "from sparsedict.data._store import X",
        "from sparsedict.data import _store",
        "x._y",
    ],
)
def test_private_names_are_found(source: str) -> None:
    assert private_uses(source)


MARKUP = re.compile(r":[\w:]+:`[^`]*`|``.*?``|`[^`]*`|\w+://\S+")


def _public_names() -> set[str]:
    rooms = [importlib.import_module(room.name) for room in pkgutil.iter_modules(sd.__path__, "sparsedict.")]
    return {name for room in rooms for name in getattr(room, "__all__", vars(room)) if not name.startswith("_")}


PUBLIC = _public_names()


def _attribute_docstrings(body: list[ast.stmt]) -> Iterator[ast.Constant]:
    """Yields public docstrings that Napoleon reads as ``type: description``: those of attributes and properties."""
    for i, node in enumerate(body):
        after = body[i + 1] if i + 1 < len(body) else None
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(after, ast.Expr):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if ast.unparse(target) in PUBLIC and isinstance(after.value, ast.Constant):
                yield after.value
        elif isinstance(node, ast.ClassDef) and node.name in PUBLIC:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and any(
                    "property" in ast.unparse(d) for d in method.decorator_list
                ):
                    docstring = method.body[0]
                    if isinstance(docstring, ast.Expr) and isinstance(docstring.value, ast.Constant):
                        yield docstring.value


def test_the_first_line_of_an_attribute_has_no_colon() -> None:
    for module in MODULES:
        for docstring in _attribute_docstrings(ast.parse(module.read_text(encoding="utf-8")).body):
            if isinstance(docstring.value, str):
                first = docstring.value.strip().split("\n")[0]
                assert ":" not in MARKUP.sub("", first), f"{module}:{docstring.lineno}: {first}"
