"""`write_examples`, a page of the texts on which latents are most active."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsedict import checks
from sparsedict.analysis import Example
from sparsedict.pages._cards import LatentCard
from sparsedict.pages._html import escape, write_document
from sparsedict.pages._strings import TokenStrings, token_strings, visible

STYLE = """
nav { display: flex; flex-wrap: wrap; gap: .35rem; margin: .6rem 0 1.2rem; }
nav a { font-size: .8rem; font-variant-numeric: tabular-nums; padding: .1rem .5rem; border: 1px solid var(--line);
  border-radius: 99px; text-decoration: none; }
nav a:hover { background: var(--raised); }
section.latent { --rgb: var(--sparse); border: 1px solid var(--line); border-radius: 8px; margin: 1rem 0;
  overflow: hidden; }
section.simulator { --rgb: var(--simulator); }
section.latent > header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem 1.1rem;
  padding: .6rem .9rem; background: var(--raised); border-bottom: 1px solid var(--line); }
.facts { display: contents; font-size: .82rem; color: var(--soft); }
.facts b { color: var(--text); font-weight: 600; font-variant-numeric: tabular-nums; }
.kind { font-size: .75rem; padding: .05rem .5rem; border-radius: 99px; background: rgba(var(--rgb), .18); }
table.examples { width: 100%; border-collapse: collapse; }
.examples td { padding: .3rem .9rem; vertical-align: baseline; border-top: 1px solid var(--line); }
.examples tr:first-child td { border-top: 0; }
.examples td.value { width: 1%; padding-right: 0; text-align: right; font-size: .8rem; color: var(--soft);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.context { font-size: .82rem; line-height: 1.75; white-space: pre-wrap; overflow-wrap: anywhere; }
.context span { background: rgba(var(--rgb), calc(var(--a, 0) * var(--strongest))); border-radius: 2px;
  padding: .1em 0; }
.context .peak { font-weight: 700; box-shadow: 0 0 0 1.5px rgb(var(--rgb)); }
.context .negative { --rgb: var(--negative); }
.context .blank { color: var(--soft); }
.legend { display: inline-block; width: 8rem; height: .7rem; border-radius: 3px; vertical-align: baseline;
  background: linear-gradient(to right, transparent, rgba(var(--sparse), var(--strongest))); }
"""


def write_examples(
    path: str | os.PathLike[str],
    groups: Mapping[str, Sequence[LatentCard]],
    *,
    strings: TokenStrings | None = None,
    title: str = "Top activating examples",
    lead: str = "",
) -> Path:
    """Writes a self-contained page of latents and the texts on which they are most active.

    The background of a token shows the activation of the latent on it, relative to the largest magnitude of the latent
    on the page. A tooltip shows the value. The token with the largest magnitude of an example has a frame.

    Args:
        path: The HTML file.
        groups: Latents by heading, such as the name of their dictionary.
        strings: Function from token ids to text, see `token_strings`. By default tokens are shown as numbers.
        title: Title of the page.
        lead: Sentence below the title.

    Returns:
        The path of the file.
    """
    strings = strings or token_strings()
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="lead">{escape(lead)}</p>' if lead else "", _KEY]
    for number, (name, cards) in enumerate(groups.items()):
        links = "".join(f'<a href="#{_anchor(number, card)}">{card.latent}</a>' for card in cards)
        parts.append(f"<h2>{escape(name)}</h2>\n<nav>{links}</nav>" if cards else _empty(name))
        parts += [_latent(card, _anchor(number, card), strings) for card in cards]
    path = checks.path("path", path)
    write_document(path, title, STYLE, "\n".join(filter(None, parts)))
    return path


_KEY = (
    '<p class="soft">The shade of a token shows the activation, from 0 <span class="legend"></span> to the largest '
    "value of the latent on this page. Hover over a token to read the value. Negative activations have another colour. "
    "The strongest token of each example has a frame. ↵ is a line break, → a tab, · a space.</p>"
)


def _empty(name: str) -> str:
    return f'<h2>{escape(name)}</h2>\n<p class="soft">No latent to show.</p>'


def _anchor(group: int, card: LatentCard) -> str:
    return f"g{group}-latent-{card.latent}"


def _latent(card: LatentCard, anchor: str, strings: TokenStrings) -> str:
    kind = "" if card.kind is None else f'<span class="kind">{escape(card.kind)}</span>'
    facts = "".join(f'<span class="soft">{name} <b>{escape(value)}</b></span>' for name, value in _facts(card))
    rows = "\n".join(_row(example, card.max, strings) for example in card.examples.examples)
    body = f'<table class="examples">\n{rows}\n</table>' if rows else '<p class="soft">It never fired here.</p>'
    classes = "latent simulator" if card.kind == "simulator" else "latent"
    return (
        f'<section class="{classes}" id="{anchor}">\n<header><h3>Latent {card.latent}</h3>{kind}'
        f'<span class="facts">{facts}</span></header>\n{body}\n</section>'
    )


def _facts(card: LatentCard) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if card.frequency is not None:
        on = "" if card.n_tokens is None else f" of {card.n_tokens:,} tokens"
        facts.append(("fires on", f"{card.frequency:.3%}{on}"))
    facts.append(("largest value", f"{card.max:.3g}"))
    if card.cosine is not None:
        facts.append(("nearest neuron", f"{card.neuron} (decoder cosine {card.cosine:.2f})"))
    return facts


def _row(example: Example, largest: float, strings: TokenStrings) -> str:
    ids = example.tokens.tolist()
    # Negative ids mark positions outside of the sequence, which have no token.
    real = iter(strings([token for token in ids if token >= 0]))
    texts = [next(real) if token >= 0 else "" for token in ids]
    spans = [
        _token(text, token, value, largest, index == example.peak)
        for index, (text, token, value) in enumerate(zip(texts, ids, example.activations.tolist(), strict=True))
        if token >= 0
    ]
    where = f"sequence {example.sequence}, position {example.position}"
    return f'<tr><td class="value" title="{where}">{example.max:.2f}</td><td class="context">{"".join(spans)}</td></tr>'


def _token(text: str, token: int, value: float, largest: float, is_peak: bool) -> str:
    share = min(abs(value / largest), 1.0) if largest else 0.0
    classes = " ".join(["peak"] * is_peak + ["negative"] * (value < 0) + ["blank"] * (not text.strip()))
    attributes = f' class="{classes}"' if classes else ""
    if value:
        attributes += f' style="--a:{share:.3f}"'
    tooltip = f"{value:.4g} on {text!r}, token {token}"
    return f'<span{attributes} title="{escape(tooltip)}">{escape(visible(text))}</span>'
