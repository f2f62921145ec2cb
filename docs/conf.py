"""Settings of the documentation: ``sphinx-build -W -b html docs docs/_build/html``.

``-t short`` is for checks: it trains the dictionaries of the gallery on fewer tokens, and leaves out navigation and the
pages of source code.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import inspect
import pkgutil
import pydoc
import re
import sys
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

# The scripts of the gallery import the package `examples`.
sys.path.insert(0, str(Path(__file__).parents[1]))
# Tells jaxtyping to print its annotations as they are written in the source.
typing.GENERATING_DOCUMENTATION = "sparsedict"  # pyright: ignore[reportAttributeAccessIssue]

import latex2mathml.converter  # noqa: E402
from docutils.nodes import SkipNode  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from sphinx.ext.autosummary import Autosummary  # noqa: E402
from sphinx.util.logging import getLogger  # noqa: E402
from sphinx_gallery.scrapers import figure_rst  # noqa: E402

import sparsedict  # noqa: E402
from examples.report import presets  # noqa: E402
from sparsedict import figures as sparsedict_figures  # noqa: E402

project = "sparsedict"
author = "The sparsedict developers"
copyright = "2026, the sparsedict developers"
version = release = sparsedict.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "images", "gallery/GALLERY_HEADER.rst"]


def _scrape(block: Any, block_vars: dict[str, Any], settings: dict[str, Any]) -> str:
    """Shows the Axes that the last expression of a block returns, as a notebook does."""
    values = block_vars["example_globals"]
    value = values.get("___")
    # A block that ends in a statement leaves the value of the block before it.
    values["___"] = None
    if not isinstance(value, Axes):
        return ""
    path = next(block_vars["image_path_iterator"])
    sparsedict_figures.save(value, path)
    return figure_rst([path], settings["src_dir"])


if tags.has("short"):  # Sphinx defines `tags`.
    # Each script of the gallery ends with a full collection, which visits all objects that aren't left out.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    extensions.remove("sphinx.ext.viewcode")
    # About the fewest steps after which every figure has simulators to draw. The other trainings need only run.
    sketch = presets.SKETCH
    presets.SKETCH = replace(
        sketch,
        n_harvested=8_000,
        n_held_out=2_048,
        n_loss_tokens=256,
        expansion=1,
        expansions=(1, 2),
        report=replace(sketch.report, n_tokens=8_000, batch_size=16),
        modern=replace(sketch.modern, n_tokens=2_048),
        wide=replace(sketch.wide, n_tokens=2_048),
        n_toy_steps=20,
        n_seeds=1,
    )

GALLERY = Path(__file__).with_name("gallery")


def _run_gallery_again() -> None:
    """Makes the gallery run again if any code has changed that its scripts run, not only the scripts themselves."""
    repository = Path(__file__).parents[1]
    code = hashlib.sha256(b"short" if tags.has("short") else b"")
    for file in (Path(__file__), *sorted(repository.glob("src/**/*.py")), *sorted(repository.glob("examples/**/*.py"))):
        code.update(file.read_bytes())
    last = GALLERY / ".code"
    if not last.exists() or last.read_text(encoding="utf-8") != code.hexdigest():
        for checksum in GALLERY.glob("*.md5"):
            checksum.unlink()
        GALLERY.mkdir(exist_ok=True)
        last.write_text(code.hexdigest(), encoding="utf-8")


_run_gallery_again()
sphinx_gallery_conf = {
    "examples_dirs": ["../examples/report/gallery"],
    "gallery_dirs": ["gallery"],
    "filename_pattern": "plot_",
    # As on the page of a replication.
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": (_scrape,),
    "capture_repr": (),
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": 10**6,
    "reset_modules": (),
    "abort_on_example_error": True,
    "copyfile_regex": r".*\.rst",
}

html_theme = "furo"
html_title = f"sparsedict {release}"
html_static_path = ["_static"]
html_css_files = ["layout.css"]
html_math_renderer = "mathml"

add_module_names = False
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
# The tables of the reference only list what other pages document.
autosummary_generate = False
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Types of attributes stand in the signature; inside the list their shapes would be read as markup.
napoleon_attr_annotations = False
napoleon_use_rtype = False

# Names in single backticks become links where they name something of ours.
default_role = "py:obj"
# A word such as `latents` may name several attributes: it then stays a word.
suppress_warnings = [
    "ref.python",
    # The gallery's settings hold a function, so they can't be compared with those of the last build.
    "config.cache",
    # The check reads whole paths: the folder of a clone may have spaces, the names of the examples have none.
    "sphinx_gallery.space_in_filename",
]
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", r".*"),
    # What belongs to other packages, to typing, or to the shapes in jaxtyping's annotations; and what is private.
    ("py:.*", r"(?!sparsedict\.)(?!sd\.).*"),
    ("py:class", r"sparsedict\..*\._.*"),
]


def _public_names() -> dict[str, str]:
    """Maps where each public object is defined, and how users write it, to where it is documented."""
    places: dict[str, str] = {}
    for found in pkgutil.walk_packages(sparsedict.__path__, "sparsedict."):
        if any(part.startswith("_") for part in found.name.split(".")) or found.name.endswith(".build"):
            continue
        room = importlib.import_module(found.name)
        for name in getattr(room, "__all__", [n for n, v in vars(room).items() if _is_own(v, found.name)]):
            value = getattr(room, name)
            where = f"{found.name}.{name}"
            if inspect.isclass(value) or inspect.isfunction(value):
                places.setdefault(f"{value.__module__}.{value.__qualname__}", where)
            for alias in (name, f"sd.{name}", f"sparsedict.{name}", f"sd.{where.partition('.')[2]}"):
                places.setdefault(alias, where)
    return places


def _is_own(value: object, module: str) -> bool:
    own = inspect.isclass(value) or inspect.isfunction(value)
    return own and getattr(value, "__module__", "") == module and not getattr(value, "__name__", "_").startswith("_")


_PLACES = _public_names()


def _resolve(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Finds what is named by a private module, by ``sd.``, or by its bare name."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    owner, _, attribute = target.rpartition(".")
    found = _PLACES.get(target) or (f"{_PLACES[owner]}.{attribute}" if owner in _PLACES else None)
    if found is None or found == target:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", found, node, contnode)


def _mathematics(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Lets docstrings write formulas between dollars."""
    lines[:] = [re.sub(r"(?<![\\`$])\$([^$`]+)\$", r":math:`\1`", line) for line in lines]


def _inline(translator: Any, node: Any) -> None:
    translator.body.append(latex2mathml.converter.convert(node.astext()))
    raise SkipNode


def _display(translator: Any, node: Any) -> None:
    formula = latex2mathml.converter.convert(node.astext(), display="block")
    translator.body.append(f'<div class="math">{formula}</div>')
    raise SkipNode


class Summaries(Autosummary):
    """Tables of names with a sentence each, also for aliases, whose sentence Sphinx leaves empty."""

    def get_items(self, names: list[str]) -> list[tuple[str, str | None, str, str]]:
        items = [
            (shown, signature, summary or _alias(name), name)
            for shown, signature, summary, name in super().get_items(names)
        ]
        for _, _, summary, name in items:
            if not summary:
                getLogger(__name__).warning("`%s` has no docstring for its entry in the reference", name)
        return items


def _alias(name: str) -> str:
    value = pydoc.locate(name)
    of = getattr(value, "__name__", "")
    return f"Alias of :class:`~{name.rpartition('.')[0]}.{of}`." if of and of != name.rpartition(".")[2] else ""


def _pages_without_navigation(app: Any, pagename: str, template: str, context: Any, doctree: Any) -> None:
    """Leaves the tree of all pages out of the pages of source code, and of a check's pages, because it takes long."""
    if pagename.startswith("_modules/") or app.tags.has("short"):
        context["toctree"] = lambda **options: ""


def setup(app: Any) -> None:
    app.add_directive("autosummary", Summaries, override=True)
    # Formulas become MathML, which browsers show without a script: the pages need no network to be read.
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_display, None))
    app.connect("html-page-context", _pages_without_navigation, priority=0)
    app.connect("missing-reference", _resolve)
    app.connect("autodoc-process-docstring", _mathematics)
