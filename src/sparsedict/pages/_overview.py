"""`write_overview`, a page of results with tables, figures and links."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparsedict import checks
from sparsedict.pages._html import escape, write_document

STYLE = """
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1.6rem 1.2rem;
  margin: 1rem 0; }
figure { margin: 0; }
figure img { width: 100%; background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: .5rem; }
figcaption { font-size: .85rem; color: var(--soft); margin-top: .35rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.4rem; font-size: .88rem; margin: .5rem 0; }
dt { color: var(--soft); }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.note { font-size: .88rem; color: var(--soft); margin: .25rem 0; max-width: 54rem; }
ul { padding-left: 1.2rem; }
h2 { display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem .8rem; }
.aside { font-size: .85rem; font-weight: 400; color: var(--soft); }
.badge { font-size: .75rem; font-weight: 600; padding: .1rem .6rem; border-radius: 99px;
  border: 1px solid currentColor; }
blockquote { margin: .6rem 0 .9rem; padding: .1rem 0 .1rem .9rem; border-left: 3px solid var(--line); max-width: 50rem;
  color: var(--soft); font-size: .95rem; }
.wide { overflow-x: auto; margin: .9rem 0; }
.wide table { border-collapse: collapse; font-size: .86rem; }
.wide th, .wide td { text-align: left; vertical-align: baseline; padding: .28rem 1.4rem .28rem 0;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
.wide td:first-child { min-width: 11rem; }
.wide.first td:nth-child(2) { white-space: nowrap; font-weight: 600; }
.wide th { color: var(--soft); font-weight: 600; }
nav.contents { columns: 2 20rem; font-size: .9rem; margin: 1.2rem 0; }
nav.contents a { display: block; margin: .1rem 0; break-inside: avoid; text-decoration: none; }
nav.contents a span { color: var(--soft); }
"""


@dataclass(frozen=True)
class Section:
    """A section of an overview page.

    Attributes:
        heading: Heading of the section.
        aside: Small text beside the heading.
        badge: One or two words about the outcome, beside the heading.
        quote: A quotation, such as a claim of a source.
        text: A paragraph.
        lead_rows: Rows of a table above the figures. The first row contains the column headings.
        rows: Rows of a table below the figures. The first row contains the column headings.
        table: A preformatted table.
        notes: Notes below the preformatted table.
        figures: Captions by SVG or PNG file. The images are embedded in the page.
        links: Descriptions by relative address.
        pages: Titles of other pages, by relative address.
        facts: Values by name.
    """

    heading: str
    aside: str = ""
    badge: str = ""
    quote: str = ""
    text: str = ""
    lead_rows: Sequence[Sequence[str]] = ()
    rows: Sequence[Sequence[str]] = ()
    table: str = ""
    notes: Sequence[str] = ()
    figures: Mapping[Path, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    pages: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)


def write_overview(
    path: str | os.PathLike[str],
    sections: Sequence[Section],
    *,
    title: str,
    lead: str = "",
    lead_links: Mapping[str, str] | None = None,
    contents: bool = False,
) -> Path:
    """Writes a page of results with embedded figures.

    Args:
        path: The HTML file.
        sections: Sections in the order of the page.
        title: Title of the page.
        lead: Paragraph below the title.
        lead_links: Titles of sources by address, shown below the paragraph.
        contents: Whether to add a table of contents.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: If a figure doesn't exist.
    """
    path = checks.path("path", path)
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="lead">{escape(lead)}</p>' if lead else ""]
    parts += [
        f'<p class="lead"><a href="{escape(address)}">{escape(name)}</a></p>'
        for address, name in (lead_links or {}).items()
    ]
    if contents:
        parts.append(_contents(sections))
    parts += [_section(section) for section in sections]
    write_document(path, title, STYLE, "\n".join(filter(None, parts)))
    return path


def _contents(sections: Sequence[Section]) -> str:
    links = [
        f'<a href="#{_anchor(section)}">{escape(section.heading)} <span>{escape(section.badge)}</span></a>'
        for section in sections
    ]
    return '<nav class="contents">\n' + "\n".join(links) + "\n</nav>"


def _anchor(section: Section) -> str:
    return re.sub(r"[^a-z0-9]+", "-", section.heading.lower()).strip("-")


def _heading(section: Section) -> str:
    aside = f'<span class="aside">{escape(section.aside)}</span>' if section.aside else ""
    badge = f'<span class="badge">{escape(section.badge)}</span>' if section.badge else ""
    return f'<h2 id="{_anchor(section)}">{escape(section.heading)}{aside}{badge}</h2>'


def _rows(rows: Sequence[Sequence[str]], kind: str = "wide") -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f'<div class="{kind}"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _section(section: Section) -> str:
    parts = [_heading(section)]
    if section.quote:
        parts.append(f"<blockquote>{escape(section.quote)}</blockquote>")
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>")
    if section.lead_rows:
        parts.append(_rows(section.lead_rows, "wide first"))
    if section.table:
        parts.append(f"<pre>{escape(section.table)}</pre>")
    parts += [f'<p class="note">{escape(note)}</p>' for note in section.notes]
    if section.figures:
        figures = "\n".join(_figure(file, caption) for file, caption in section.figures.items())
        parts.append(f'<div class="figures">\n{figures}\n</div>')
    if section.rows:
        parts.append(_rows(section.rows))
    if section.links:
        items = "\n".join(
            f'<li><a href="{escape(address)}">{escape(address)}</a> <span class="soft">{escape(what)}</span></li>'
            for address, what in section.links.items()
        )
        parts.append(f"<ul>\n{items}\n</ul>")
    if section.pages:
        items = "\n".join(
            f'<li><a href="{escape(address)}">{escape(title)}</a></li>' for address, title in section.pages.items()
        )
        parts.append(f"<ul>\n{items}\n</ul>")
    if section.facts:
        items = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in section.facts.items())
        parts.append(f"<dl>\n{items}\n</dl>")
    return "\n".join(parts)


def _figure(file: Path, caption: str) -> str:
    kind = {".svg": "image/svg+xml", ".png": "image/png"}.get(file.suffix)
    if kind is None:
        raise ValueError(f"`figures` must be .svg or .png files, got {file.name!r}.")
    data = base64.b64encode(file.read_bytes()).decode()
    return (
        f'<figure><img src="data:{kind};base64,{data}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
