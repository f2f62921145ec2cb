"""The HTML document, style and escaping of all pages."""

from __future__ import annotations

import html
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --soft: #63686f; --line: #dfe2e6; --ground: #ffffff;
  --raised: #f7f8f9; --link: #0b5cad; --sparse: 0, 114, 178; --simulator: 213, 94, 0; --negative: 204, 121, 167;
  --strongest: .62; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e6e9; --soft: #9aa1a9; --line: #33383e; --ground: #16181b;
  --raised: #1d2024; --link: #7db7f0; --sparse: 58, 152, 215; --simulator: 226, 122, 46;
  --negative: 222, 146, 188; --strongest: .7; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 62rem; background: var(--ground); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 3rem 0 .8rem; padding-top: .5rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: 2px; }
.lead, .soft { color: var(--soft); }
code, pre, .context { font-family: ui-monospace, "SF Mono", SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono",
  monospace; }
pre { background: var(--raised); border: 1px solid var(--line); border-radius: 6px; padding: .9rem 1rem;
  overflow-x: auto; font-size: .8rem; line-height: 1.5; }
"""


def escape(value: object) -> str:
    """Returns text that is safe in HTML content and in quoted attributes."""
    return html.escape(str(value), quote=True)


def write_document(path: Path, title: str, style: str, body: str) -> None:
    """Writes a self-contained HTML page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
    # Some tokenizers return lone surrogates for single bytes, which UTF-8 can't encode.
    path.write_text(document, encoding="utf-8", errors="xmlcharrefreplace", newline="\n")
