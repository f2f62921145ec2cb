from __future__ import annotations

import base64
from pathlib import Path

import pytest

from sparsedict.pages import Section, write_overview

from ._made import Parsed


def test_figures_are_within_the_page_and_text_is_escaped(tmp_path: Path) -> None:
    figure = tmp_path / "a.svg"
    figure.write_text("<svg/>")
    section = Section(
        "Found <it>",
        text="a & b",
        table="x  1 < 2",
        notes=["a > note"],
        figures={figure: 'a "caption"'},
        links={"b.html?x=<": "more"},
        facts={"k": 32, "<n>": "v"},
    )
    page = write_overview(tmp_path / "index.html", [section], title="T", lead="<lead>").read_text(encoding="utf-8")
    parsed = Parsed(page)
    for words in ("Found <it>", "a & b", "x  1 < 2", "a > note", 'a "caption"', "more", "32", "<n>", "<lead>"):
        assert words in parsed.text
    images = [attributes["src"] for tag, attributes in parsed.tags if tag == "img"]
    assert images == ["data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode()]


def test_rejects_other_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`figures` must be \.svg or \.png files, got 'a\.gif'"):
        write_overview(tmp_path / "index.html", [Section("a", figures={Path("a.gif"): ""})], title="T")


def test_claims_outcomes_and_tables(tmp_path: Path) -> None:
    sections = [
        Section(
            "One & two",
            aside="figure 2",
            badge="seen",
            quote="It <is> so.",
            rows=[("", "there", "here"), ("a", "1", "2")],
        ),
        Section("Another"),
    ]
    page = write_overview(tmp_path / "p.html", sections, title="t", contents=True).read_text(encoding="utf-8")
    assert '<a href="#one-two">One &amp; two <span>seen</span></a>' in page
    assert (
        '<h2 id="one-two">One &amp; two<span class="aside">figure 2</span><span class="badge">seen</span></h2>' in page
    )
    assert "<blockquote>It &lt;is&gt; so.</blockquote>" in page
    assert "<tr><th></th><th>there</th><th>here</th></tr>\n<tr><td>a</td><td>1</td><td>2</td></tr>" in page
