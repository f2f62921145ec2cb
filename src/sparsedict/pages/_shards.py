"""The data of the pages as JSON: a manifest, the tokens, a table of each dictionary, and shards of latents."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sparsedict.analysis import ExampleTable, Neighbours
from sparsedict.pages._facts import DictionaryFacts
from sparsedict.pages._strings import TokenStrings, visible

PER_SHARD = 32
"""Number of latents in a file."""
N_TOP_TOKENS, N_PROMOTED = 5, 5
DIGITS = 9
"""Significant digits of activations. They state a number in float32 exactly."""


class TokenNumbers:
    """Numbers the tokens of all pages, so that frequent tokens have short numbers.

    Args:
        facts: The facts of all dictionaries.
    """

    def __init__(self, facts: Mapping[str, DictionaryFacts]) -> None:
        parts = [ids.flatten().numpy() for own in facts.values() for ids in _token_ids(own)]
        ids, counts = np.unique(
            np.concatenate([np.asarray(part, dtype=np.int64) for part in parts]), return_counts=True
        )
        counts, ids = counts[ids >= 0], ids[ids >= 0]
        self.ids: NDArray[np.int64] = ids[np.argsort(-counts, kind="stable")]
        self._sorted = np.argsort(self.ids)

    def __call__(self, ids: Tensor) -> NDArray[np.int64]:
        """Returns the numbers of some ids; that of a negative id is meaningless."""
        found = np.searchsorted(self.ids, ids.numpy(), sorter=self._sorted)
        return self._sorted[np.minimum(found, len(self.ids) - 1)]

    def content(self, strings: TokenStrings) -> list[Any]:
        """Returns the visible text of each token, and its id."""
        ids = self.ids.tolist()
        return [[visible(text) for text in strings(ids)], ids]


def _token_ids(own: DictionaryFacts) -> Iterator[Tensor]:
    yield own.records.top.tokens
    yield own.records.quantiles.tokens
    if own.effects is not None:
        yield own.effects.promoted
        yield own.effects.suppressed


def dictionary_entry(name: str, own: DictionaryFacts, facts: Mapping[str, DictionaryFacts]) -> dict[str, Any]:
    """Returns the entry of a dictionary in the manifest."""
    unit = "neuron" if own.is_neurons else "latent"
    linked = [other for other in own.others if facts[other].is_neurons]
    return {
        "name": name,
        "description": own.description,
        "notes": list(own.notes),
        "unit": unit,
        "units": f"{unit}s",
        "n": own.records.n_latents,
        "n_tokens": own.records.n_tokens,
        "per_shard": PER_SHARD,
        "types": [[kind, own.types.count(kind)] for kind in sorted(set(own.types))],
        "scores": list(own.scores),
        "points": list(own.points),
        "neurons": linked[0] if linked and own.norms is None else None,
        "has": {
            "promoted": own.effects is not None,
            "neuron": own.neurons is not None,
            "rarely_zero": own.records.rarely_zero,
        },
    }


def table(own: DictionaryFacts, numbers: TokenNumbers) -> dict[str, Any]:
    """Returns the columns of the list of latents."""
    records = own.records
    largest = np.where(abs(records.act_min) > abs(records.act_max), records.act_min, records.act_max)
    columns: dict[str, Any] = {
        "top": _top_tokens(records.top, numbers),
        "type": list(own.types),
        "frequency": rounded(records.frequency.numpy(), 4).tolist(),
        "strong": rounded(records.strong_frequency.numpy(), 3).tolist(),
        "max": rounded(largest, 4).tolist(),
    }
    if own.strongest is not None:
        columns["layer"] = own.strongest.tolist()
    if own.effects is not None:
        columns["promoted"] = numbers(own.effects.promoted[:, :N_PROMOTED]).tolist()
    if own.neurons is not None:
        columns["neuron"] = own.neurons.latents[:, 0].tolist()
        columns["cosine"] = rounded(own.neurons.cosine[:, 0].numpy(), 3).tolist()
    for name, values in own.scores.items():
        columns[name] = [value if np.isfinite(value) else None for value in rounded(values.numpy(), 4).tolist()]
    return columns


def _top_tokens(top: ExampleTable, numbers: TokenNumbers) -> list[list[int]]:
    """Returns the tokens of the top examples of each latent, the most frequent first."""
    peaks, bounds = numbers(top.tokens[:, top.n_before]).tolist(), top.offsets.tolist()
    found = []
    for start, end in pairwise(bounds):
        own = peaks[start:end]
        found.append(sorted(dict.fromkeys(own), key=lambda number: -own.count(number))[:N_TOP_TOKENS])
    return found


@dataclass(frozen=True)
class Shards:
    """The latents of a dictionary in the form that the pages read.

    Args:
        own: The facts of the dictionary.
        numbers: The numbers of tokens.
    """

    own: DictionaryFacts
    numbers: TokenNumbers

    def __len__(self) -> int:
        return -(-self.own.records.n_latents // PER_SHARD)

    def shard(self, index: int) -> list[dict[str, Any]]:
        """Returns the latents of a file."""
        first = index * PER_SHARD
        last = min(first + PER_SHARD, self.own.records.n_latents)
        n = self.own.records.n_quantiles
        top = _examples(self.own.records.top, first, last, self.numbers)
        random = _examples(self.own.records.quantiles, first * n, last * n, self.numbers)
        return [
            self._latent(latent, top[latent - first], random[(latent - first) * n : (latent - first + 1) * n])
            for latent in range(first, last)
        ]

    def _latent(self, latent: int, top: list[Any], random: list[Any]) -> dict[str, Any]:
        own, records = self.own, self.own.records
        found: dict[str, Any] = {
            "count": int(records.counts[latent]),
            "strong": float(rounded(records.strong_frequency[latent].numpy(), 3)),
            "quantiles": rounded(records.quantile_values[latent].numpy(), DIGITS).tolist(),
            "histogram": self._histogram(latent),
            "top": top,
            "random": random,
            "own": _pairs(own.own, latent),
            "neurons": _pairs(own.neurons, latent),
            "others": {name: pairs for name, near in own.others.items() if (pairs := _pairs(near, latent))},
            "partners": self._partners(latent),
        }
        if words := [[name, given[latent]] for name, given in own.words.items() if given[latent]]:
            found["words"] = words
        if own.norms is not None:
            found["norms"] = rounded(own.norms[latent].numpy(), 4).tolist()
        if own.effects is not None:
            effects = own.effects
            for name in ("promoted", "suppressed"):
                logits = rounded(getattr(effects, f"{name}_logits")[latent].numpy(), 4).tolist()
                tokens = self.numbers(getattr(effects, name)[latent]).tolist()
                found[name] = [list(pair) for pair in zip(tokens, logits, strict=True)]
        return found

    def _histogram(self, latent: int) -> dict[str, Any]:
        histograms = self.own.records.histograms
        counts, width = histograms.counts[latent], float(histograms.widths[latent])
        used = counts.nonzero().flatten()
        if not len(used):
            return {"counts": [], "low": 0.0, "width": 0.0}
        # Bins start at 0, except where all activations are negative.
        first = min(int(used[0]), histograms.n_negative)
        last = max(int(used[-1]) + 1, min(histograms.n_negative, len(counts)))
        low = (first - histograms.n_negative) * width
        return {"counts": counts[first:last].tolist(), "low": low, "width": width}

    def _partners(self, latent: int) -> list[list[float]]:
        if self.own.records.rarely_zero:
            return []  # units that fire on almost all tokens fire together whatever they mean
        partners = self.own.records.partners
        n = int((partners.latents[latent] >= 0).sum())
        columns = (partners.latents[latent, :n], partners.jaccard[latent, :n], partners.share[latent, :n])
        return [list(row) for row in zip(*(rounded(c.numpy(), 3).tolist() for c in columns), strict=True)]


def _examples(table: ExampleTable, first: int, last: int, numbers: TokenNumbers) -> list[list[Any]]:
    """Returns the examples of some groups: sequence, position, index of the token, tokens, and active positions."""
    bounds = table.offsets[first : last + 1].tolist()
    rows = slice(bounds[0], bounds[-1])
    inside, values = table.tokens[rows].numpy() >= 0, rounded(table.activations[rows].numpy(), DIGITS)
    tokens = numbers(table.tokens[rows])
    peaks = inside[:, : table.n_before].sum(1).tolist()
    where = zip(table.sequences[rows].tolist(), table.positions[rows].tolist(), peaks, strict=True)
    found = []
    for row, (sequence, position, peak) in enumerate(where):
        own = values[row, inside[row]]
        active = own.nonzero()[0]
        pairs = [item for pair in zip(active.tolist(), own[active].tolist(), strict=True) for item in pair]
        found.append([sequence, position, peak, tokens[row, inside[row]].tolist(), pairs])
    return [found[a - bounds[0] : b - bounds[0]] for a, b in pairwise(bounds)]


def _pairs(near: Neighbours | None, latent: int) -> list[list[float]]:
    if near is None:
        return []
    cosines = rounded(near.cosine[latent].numpy(), 3).tolist()
    # A latent with a decoder row of zeros, such as a later latent at an earlier layer, has no neighbours.
    return [list(pair) for pair in zip(near.latents[latent].tolist(), cosines, strict=True) if pair[1]]


def rounded(values: NDArray[Any], digits: int) -> NDArray[Any]:
    """Rounds numbers to significant digits, so that their text is short. Integers don't change."""
    if np.issubdtype(values.dtype, np.integer):
        return values
    exact = values.astype(np.float64)
    usable = np.isfinite(exact) & (exact != 0)
    places = digits - 1 - np.floor(np.log10(np.abs(exact), out=np.zeros_like(exact), where=usable))
    places = np.clip(places, -300, 300)
    scale = np.power(10.0, np.abs(places))
    up = places >= 0
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.where(up, np.round(exact * scale) / scale, np.round(exact / scale) * scale)
    return np.where(usable & np.isfinite(found), found, exact)


def script(name: str, content: Any) -> bytes:
    """Returns a data file: a script that passes JSON to the pages.

    The JSON is ASCII. ``<`` is escaped, so that the text of a token can't end a script or start a comment.
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=True).replace("<", "\\u003c")
    return f"sparsedict.receive({json.dumps(name)},{text});\n".encode("ascii")


def sample(n: int, size: int) -> Sequence[int]:
    """Returns at most ``size`` indices below ``n``, spread evenly."""
    return sorted({round(index) for index in np.linspace(0, n - 1, min(n, size))})
