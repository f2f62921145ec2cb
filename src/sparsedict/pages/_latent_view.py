"""`latent`, a view of one latent in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparsedict import checks
from sparsedict.analysis import Example, LatentRecords, TokenEffects
from sparsedict.pages._html import escape
from sparsedict.pages._strings import TokenStrings, strings_of, visible
from sparsedict.pages.exports import histogram

STYLE = """
.sd-latent { font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; max-width: 60rem;
  overflow-wrap: anywhere; }
.sd-latent h4 { margin: .2rem 0; font-size: 1.05em; }
.sd-latent p { margin: .2rem 0; }
.sd-latent small, .sd-latent figcaption, .sd-latent .soft { opacity: .75; font-size: .85em; }
.sd-latent figure { margin: .4rem 0; }
.sd-latent svg { display: block; width: 20rem; max-width: 100%; height: 4rem; }
.sd-latent rect { fill: rgb(0, 114, 178); }
.sd-latent ol { list-style: none; margin: .2rem 0; padding: 0; }
.sd-latent li { padding: .15rem 0; border-top: 1px solid rgba(128, 128, 128, .3); white-space: pre-wrap;
  font: 13px/1.7 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.sd-latent li b { font-weight: 400; opacity: .75; display: inline-block; min-width: 4em; }
.sd-latent li span, .sd-latent mark { color: inherit; background: rgba(0, 114, 178, calc(var(--a, 0) * .55));
  border-radius: 2px; unicode-bidi: isolate; }
.sd-latent .negative { background: rgba(204, 121, 167, calc(var(--a, 0) * .55)); }
.sd-latent mark { font-weight: 700; box-shadow: 0 0 0 1.5px rgb(0, 114, 178); }
.sd-latent code { background: rgba(128, 128, 128, .15); border-radius: 3px; padding: 0 .3em; white-space: pre; }
.sd-latent summary { cursor: pointer; }
"""
N_QUANTILE_EXAMPLES = 3


@dataclass(frozen=True, eq=False, repr=False)
class LatentView:
    """A view of one latent. A notebook shows its HTML, which has no script and needs no other file.

    Attributes:
        name: Name of the latent.
        html: The HTML.
    """

    name: str
    html: str

    def __repr__(self) -> str:
        return f"LatentView({self.name!r}, {len(self.html):,} characters of HTML)"

    def _repr_html_(self) -> str:
        return self.html


def latent(
    records: LatentRecords,
    index: int,
    *,
    strings: TokenStrings | None = None,
    effects: TokenEffects | None = None,
    n_examples: int = 10,
    title: str | None = None,
) -> LatentView:
    """Returns a view of one latent for a notebook: frequency, histogram, promoted tokens and examples.

    Args:
        records: The records of the dictionary, see `sparsedict.analysis.collect`.
        index: Index of the latent.
        strings: Function from token ids to text, see `token_strings`. By default tokens are shown as numbers.
        effects: The tokens that latents promote and suppress, see `sparsedict.analysis.token_effects`.
        n_examples: Largest number of top examples.
        title: Title of the view. By default the number of the latent.

    Raises:
        ValueError: If there is no such latent.

    Example:
        >>> import sparsedict as sd
        >>> site = sd.Site(sd.zoo.load_model(), "transformer.h.1.mlp", exclude_tokens=[0])
        >>> tokens = sd.zoo.tokens("evaluation", n_tokens=2048)
        >>> records = sd.analysis.collect(site, {"neurons": site.neurons}, tokens, progress=False)["neurons"]
        >>> view = latent(records, 3)
        >>> view.name, "<script" in view.html
        ('Latent 3', False)
    """
    checks.instance(
        "records", records, LatentRecords, "the records of a dictionary, as `analysis.collect` returns them"
    )
    index = checks.index("index", index, records.n_latents)
    examples = records.examples(index)[: checks.at_least("n_examples", n_examples, 1)]
    strings = strings_of("strings", strings)
    title = title or f"Latent {index}"
    largest = max(abs(float(records.act_min[index])), abs(float(records.act_max[index])))
    parts = [f"<h4>{escape(title)}</h4>", f"<p>{_facts(records, index)}</p>"]
    if len(examples):
        parts.append(_histogram(records, index))
    if effects is not None:
        parts.append(_effects(effects, index, strings))
    if len(examples):
        parts.append(f"<p><b>Top examples</b></p>{_list(examples, largest, strings)}")
        parts += [_quantile(records, index, q, largest, strings) for q in reversed(range(records.n_quantiles))]
    # Some tokenizers return lone surrogates, which a notebook file can't contain.
    text = f'<style>{STYLE}</style><div class="sd-latent">{"".join(parts)}</div>'
    return LatentView(title, text.encode("utf-8", "xmlcharrefreplace").decode("utf-8"))


def _facts(records: LatentRecords, index: int) -> str:
    count = int(records.counts[index])
    if not count:
        return f"It never fired on {records.n_tokens:,} tokens."
    low, high = float(records.act_min[index]), float(records.act_max[index])
    strong = float(records.strong_frequency[index])
    where = (
        f"At least 10 % of its largest magnitude on {strong:.3%}"
        if records.rarely_zero
        else f"Fires on {count / records.n_tokens:.3%}"
    )
    return f"{where} of {records.n_tokens:,} tokens, with activations from {low:.3g} to {high:.3g}."


def _histogram(records: LatentRecords, index: int) -> str:
    middles, counts = histogram(records, index)
    highest = max(counts)
    bars = "".join(
        f'<rect x="{i}" y="{40 * (1 - n / highest):.2f}" width=".9" height="{40 * n / highest:.2f}">'
        f"<title>{n:.0f} tokens near {middle:.3g}</title></rect>"
        for i, (middle, n) in enumerate(zip(middles, counts, strict=True))
        if n
    )
    label = f"Histogram of {int(records.counts[index]):,} activations"
    return (
        f'<figure><svg viewBox="0 0 {len(counts)} 40" preserveAspectRatio="none" role="img" aria-label="{label}">{bars}'
        f"</svg><figcaption>{float(records.act_min[index]):.3g} to {float(records.act_max[index]):.3g}: activations on "
        "the tokens on which it fires</figcaption></figure>"
    )


def _effects(effects: TokenEffects, index: int, strings: TokenStrings) -> str:
    lines = []
    for name, ids in (("Promotes", effects.promoted[index]), ("Suppresses", effects.suppressed[index])):
        tokens = " ".join(f"<code>{escape(visible(text))}</code>" for text in strings(ids.tolist()))
        lines.append(f"<p>{name} {tokens}</p>")
    return "".join(lines)


def _quantile(records: LatentRecords, index: int, quantile: int, largest: float, strings: TokenStrings) -> str:
    examples = records.examples(index, quantile)[:N_QUANTILE_EXAMPLES]
    if not examples:
        return ""
    low, high = records.quantile_values[index, quantile : quantile + 2].tolist()
    heading = f"Examples from {low:.3g} to {high:.3g} (quantile {quantile + 1} of {records.n_quantiles})"
    return f"<details><summary>{heading}</summary>{_list(examples, largest, strings)}</details>"


def _list(examples: Sequence[Example], largest: float, strings: TokenStrings) -> str:
    rows = "".join(f"<li><b>{e.value:.3g}</b>{_tokens(e, largest, strings)}</li>" for e in examples)
    return f"<ol>{rows}</ol>"


def _tokens(example: Example, largest: float, strings: TokenStrings) -> str:
    spans = []
    texts = strings(example.tokens.tolist())
    for place, (text, value) in enumerate(zip(texts, example.activations.tolist(), strict=True)):
        tag = "mark" if place == example.peak else "span"
        style = f' style="--a:{min(abs(value) / largest, 1):.2f}" title="{value:.4g}"' if value and largest else ""
        negative = ' class="negative"' if value < 0 else ""
        spans.append(f"<{tag}{negative}{style}>{escape(visible(text))}</{tag}>")
    return "".join(spans)
