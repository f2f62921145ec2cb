"""The facts about a latent that exports write."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sparsedict import checks
from sparsedict.analysis import Example, LatentRecords, TokenEffects
from sparsedict.pages._strings import TokenStrings, token_strings
from sparsedict.pages.exports._arguments import records_of

N_BINS = 50


@dataclass(frozen=True)
class ExportedTokens:
    """Tokens that a latent promotes or suppresses, and its effects on them. Empty if they are unknown."""

    texts: tuple[str, ...] = ()
    effects: tuple[float, ...] = ()


@dataclass(frozen=True)
class ExportedExample:
    """An example with the texts of its tokens."""

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    peak: int
    sequence: int
    position: int


@dataclass(frozen=True)
class ExportedQuantile:
    """Examples of a range of activations. The share is that of the tokens on which the latent fires."""

    index: int
    low: float
    high: float
    share: float
    examples: tuple[ExportedExample, ...]


@dataclass(frozen=True)
class ExportedLatent:
    """A latent with its examples and distributions."""

    index: int
    count: int
    frequency: float
    act_min: float
    act_max: float
    top: tuple[ExportedExample, ...]
    quantiles: tuple[ExportedQuantile, ...]
    promoted: ExportedTokens
    suppressed: ExportedTokens


def exported(
    records: LatentRecords, latents: Sequence[int], strings: TokenStrings | None, effects: TokenEffects | None
) -> Iterator[ExportedLatent]:
    """Yields the latents in order."""
    strings = _cached(strings or token_strings())
    for latent in latents:
        yield _latent(records, latent, strings, effects)


def _cached(strings: TokenStrings) -> TokenStrings:
    """Returns a function that converts every token once, because tokenizers decode single tokens slowly."""
    known: dict[int, str] = {}

    def texts(ids: Sequence[int]) -> list[str]:
        new = [token for token in dict.fromkeys(ids) if token not in known]
        if new:
            known.update(zip(new, map(clean, strings(new)), strict=True))
        return [known[token] for token in ids]

    return texts


def chosen_latents(records: LatentRecords, latents: Sequence[int] | None) -> list[int]:
    """Returns the latents to export: those given, or all that fired.

    Raises:
        ValueError: If a latent doesn't exist, or is given twice.
    """
    if latents is None:
        return torch.nonzero(~records.dead).flatten().tolist()
    found = [checks.at_least("latents", latent, 0) for latent in latents]
    if found and max(found) >= records.n_latents:
        raise ValueError(f"`latents` must lie in [0, {records.n_latents}), got {max(found)}.")
    if len(set(found)) < len(found):
        raise ValueError("`latents` must name each latent once.")
    return found


def clean(text: str) -> str:
    """Replaces lone surrogates, which aren't valid in JSON and Parquet files."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def histogram(records: LatentRecords, latent: int, n_bins: int = N_BINS) -> tuple[list[float], list[float]]:
    """Returns the middles and the counts of equal bins from the smallest to the largest activation of a latent.

    The counts come from the bins of the records, of which parts are split in proportion. They sum to the number of
    tokens on which the latent fires.
    """
    latent = checks.index("latent", latent, records_of("records", records).n_latents)
    n_bins = checks.at_least("n_bins", n_bins, 1)
    low, high = float(records.act_min[latent]), float(records.act_max[latent])
    edges = np.linspace(low, high, n_bins + 1)
    counts = np.diff(np.interp(edges, *_cumulative(records, latent))) * int(records.counts[latent])
    if low == high:
        counts[-1] = float(records.counts[latent])
    return ((edges[:-1] + edges[1:]) / 2).tolist(), counts.tolist()


def percentiles(records: LatentRecords, latent: int) -> list[float]:
    """Returns the percentiles 1 to 100 of the activations on the tokens on which a latent fires."""
    latent = checks.index("latent", latent, records_of("records", records).n_latents)
    if not int(records.counts[latent]):
        return []
    values, shares = _cumulative(records, latent)
    return np.interp(np.arange(1, 101) / 100, shares, values).tolist()


def _cumulative(records: LatentRecords, latent: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns values in ascending order, and the share of the activations below each.

    The points are the edges of the histogram and the bounds of the quantiles.
    """
    own = records.histograms
    low, high = float(records.act_min[latent]), float(records.act_max[latent])
    edges = own.edges(latent).numpy()
    below = np.concatenate([[0.0], np.cumsum(own.counts[latent].numpy(), dtype=np.float64)])
    below /= max(below[-1], 1.0)
    inside = (edges > low) & (edges < high)
    bounds = records.quantile_values[latent].double().numpy()
    levels = np.linspace(0, 1, len(bounds))
    values = np.concatenate([[low], edges[inside], bounds[1:-1], [high]])
    shares = np.concatenate([[0.0], below[inside], levels[1:-1], [1.0]])
    order = np.lexsort((shares, values))
    # Both sources round, so a share may be smaller than that of a smaller value.
    return values[order], np.maximum.accumulate(shares[order])


def _latent(records: LatentRecords, latent: int, strings: TokenStrings, effects: TokenEffects | None) -> ExportedLatent:
    bounds = records.quantile_values[latent].tolist()
    n = records.n_quantiles
    quantiles = tuple(
        ExportedQuantile(q, bounds[q], bounds[q + 1], 1 / n, _examples(records.examples(latent, q), strings))
        for q in reversed(range(n))
    )
    return ExportedLatent(
        latent,
        int(records.counts[latent]),
        int(records.counts[latent]) / records.n_tokens,
        float(records.act_min[latent]),
        float(records.act_max[latent]),
        _examples(records.examples(latent), strings),
        tuple(quantile for quantile in quantiles if quantile.examples),
        *_tokens(effects, latent, strings),
    )


def _examples(examples: Sequence[Example], strings: TokenStrings) -> tuple[ExportedExample, ...]:
    return tuple(
        ExportedExample(
            tuple(e.tokens.tolist()),
            tuple(strings(e.tokens.tolist())),
            tuple(e.activations.tolist()),
            e.peak,
            e.sequence,
            e.position,
        )
        for e in examples
    )


def _tokens(effects: TokenEffects | None, latent: int, strings: TokenStrings) -> tuple[ExportedTokens, ExportedTokens]:
    if effects is None:
        return ExportedTokens(), ExportedTokens()
    both = (
        (effects.promoted[latent], effects.promoted_logits[latent]),
        (effects.suppressed[latent], effects.suppressed_logits[latent]),
    )
    up, down = (ExportedTokens(tuple(strings(i.tolist())), tuple(v.tolist())) for i, v in both)
    return up, down


def plain(number: float) -> float:
    """Rounds to six significant digits, which keeps files small."""
    return float(f"{number:.6g}") if math.isfinite(number) else 0.0
