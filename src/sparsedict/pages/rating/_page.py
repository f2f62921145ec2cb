"""The rating page: one HTML document with its style, script and data."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from sparsedict import checks
from sparsedict.pages._html import STYLE, escape
from sparsedict.pages.rating._answers import check_rater
from sparsedict.pages.rating._rubric import RUBRIC, RubricGrade
from sparsedict.pages.rating._set import RatingSet
from sparsedict.storage import replace_file

TITLE = "Rating of latents"


def write_page(path: str | os.PathLike[str], rating_set: RatingSet, *, rater: str | None = None) -> Path:
    """Writes one self-contained page that keeps answers in the browser and downloads them as a file.

    The page opens from disk without a network. `sparsedict.analysis.ratings.read` reads the downloaded file with the
    key, which `RatingSet.write_key` writes to another place.

    Args:
        path: The HTML file.
        rating_set: The latents.
        rater: Name of the rater: lower-case letters, digits, hyphens and underscores. By default the page asks for it.

    Raises:
        IsADirectoryError: If the path is a folder.
        ValueError: If the name isn't valid.
    """
    checks.instance("rating_set", rating_set, RatingSet, "the result of `rating_set`")
    path = checks.file_path("path", path, "an HTML file")
    settings = {"store": "browser"} if rater is None else {"store": "browser", "rater": check_rater(rater)}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = document(rating_set, settings)
    replace_file(path, lambda file: _write(file, text))
    return path


def document(rating_set: RatingSet, settings: Mapping[str, Any], nonce: str = "") -> str:
    """Returns the HTML document.

    Args:
        rating_set: The latents.
        settings: Settings of the script: ``store`` is ``browser`` or ``server``, and ``rater`` the name of the rater.
        nonce: Nonce of the content security policy.
    """
    own = f' nonce="{escape(nonce)}"' if nonce else ""
    data = {
        **settings,
        "set": rating_set.id,
        "items": [{"id": item.id, "examples": item.examples} for item in rating_set.items],
        "grades": [asdict(grade) for grade in RUBRIC],
    }
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="referrer" content="same-origin">\n<link rel="icon" href="data:,">\n<title>{TITLE}</title>\n'
        f"<style{own}>{STYLE}{_resource('page.css')}</style>\n</head>\n<body>\n"
        f"{_resource('page.html').replace('{rubric}', _rubric())}\n"
        f'<script type="application/json" id="data"{own}>{_json(data)}</script>\n'
        f"<script{own}>{_resource('page.js')}</script>\n</body>\n</html>\n"
    )


def _rubric() -> str:
    return "\n".join(_grade(grade) for grade in RUBRIC)


def _grade(grade: RubricGrade) -> str:
    examples = "".join(f"<li>{_marked(text)}</li>" for text in grade.examples)
    return (
        f"<dt><b>{grade.grade}</b> {escape(grade.name)}</dt>\n<dd>{escape(grade.rule)}"
        f'<ul class="context" aria-label="Example of grade {grade.grade}">{examples}</ul>'
        f'<span class="soft">{escape(grade.reason)}</span></dd>'
    )


def _marked(text: str) -> str:
    return re.sub(r"\[(.*?)\]", r"<mark>\1</mark>", escape(text))


def _json(data: Mapping[str, Any]) -> str:
    """Returns JSON that is safe in a script element."""
    return json.dumps(data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _resource(name: str) -> str:
    return files("sparsedict.pages.rating").joinpath(name).read_text(encoding="utf-8")


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")
