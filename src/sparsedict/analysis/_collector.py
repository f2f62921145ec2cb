"""`Collector`, the running state of `collect` for one dictionary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsedict.analysis._activation_histogram import N_LINEAR, RunningHistogram
from sparsedict.analysis._best_rows import BestRows
from sparsedict.analysis._cofiring import N_SAMPLED, cofiring
from sparsedict.analysis._entry_blocks import EntryBlock
from sparsedict.analysis._example_reservoir import ExampleReservoir, peaks, sample, shared_sample
from sparsedict.analysis._examples import ExampleTable
from sparsedict.analysis._latent_records import Histograms, LatentRecords, Partners

SURPLUS = 2.5
"""Random examples that are kept during the pass, for each one that is returned. A quantile gets a random number."""

_ROWS = 1024


@dataclass(frozen=True)
class Amounts:
    """How much is kept for each latent, see `collect`."""

    n_top: int
    n_quantiles: int
    n_per_quantile: int
    context: tuple[int, int]
    n_partners: int

    @property
    def n_random(self) -> int:
        """Number of random examples during the pass."""
        return math.ceil(SURPLUS * self.n_quantiles * self.n_per_quantile)


class Collector:
    """Counts, histograms, examples and sampled tokens of every latent, updated block by block.

    The memory depends on the number of latents and the amounts, and not on the number of tokens.

    Args:
        n_latents: Number of latents.
        amounts: How much is kept.
        seed: Random seed.
    """

    def __init__(self, n_latents: int, amounts: Amounts, seed: int) -> None:
        self.amounts, self.seed, self.n_latents = amounts, seed, n_latents
        self.n_tokens = self.n_sequences = 0
        self.counts: NDArray[np.int64] = np.zeros(n_latents, dtype=np.int64)
        self.lowest: NDArray[np.float32] = np.full(n_latents, np.inf, dtype=np.float32)
        self.highest: NDArray[np.float32] = np.full(n_latents, -np.inf, dtype=np.float32)
        self.positive = RunningHistogram(n_latents)
        self.negative: RunningHistogram | None = None
        self.top = ExampleReservoir(n_latents, amounts.n_top, amounts.context)
        self.random = ExampleReservoir(n_latents, amounts.n_random, amounts.context)
        self.shared = BestRows(n_latents, N_SAMPLED)

    def update_(self, block: EntryBlock) -> None:
        """Adds the active latents on a block of tokens."""
        self.n_tokens += block.text.n_tokens
        self.n_sequences += block.text.n_sequences
        if not len(block):
            return
        rows = block.present
        self.counts[rows] += np.diff(np.append(block.starts, len(block)))
        self.lowest[rows] = np.minimum(self.lowest[rows], np.minimum.reduceat(block.values, block.starts))
        self.highest[rows] = np.maximum(self.highest[rows], np.maximum.reduceat(block.values, block.starts))
        self._update_histograms(block)
        self.top.update_(block, peaks(block, self.top.best.lowest))
        self.random.update_(block, sample(block, self.seed, self.random.best.lowest))
        shared = shared_sample(block, self.seed, self.shared.lowest)
        self.shared.update_(block.latents[shared.entries], shared.keys)

    def _update_histograms(self, block: EntryBlock) -> None:
        below = block.values < 0
        if not below.any():
            self.positive.update_(block.latents, block.values)
            return
        if self.negative is None:
            self.negative = RunningHistogram(self.n_latents)
        self.positive.update_(block.latents[~below], block.values[~below])
        self.negative.update_(block.latents[below], -block.values[below])

    def state(self) -> dict[str, Any]:
        """Returns the state, which `restored` takes."""
        found: dict[str, Any] = {"n_tokens": self.n_tokens, "n_sequences": self.n_sequences}
        for name in ("counts", "lowest", "highest"):
            found[name] = torch.from_numpy(getattr(self, name))
        for name in ("positive", "negative"):
            histogram = getattr(self, name)
            if histogram is not None:
                found[name] = {"counts": histogram.counts, "octaves": torch.from_numpy(histogram.octaves)}
        shared = torch.from_numpy(self.shared.keys)
        return {**found, "top": self.top.state(), "random": self.random.state(), "shared": shared}

    @classmethod
    def restored(cls, state: Mapping[str, Any], amounts: Amounts, seed: int) -> Collector:
        """Returns a collector with a state that `state` returned."""
        new = cls(len(state["counts"]), amounts, seed)
        new.n_tokens, new.n_sequences = state["n_tokens"], state["n_sequences"]
        for name in ("counts", "lowest", "highest"):
            setattr(new, name, state[name].numpy())
        for name in ("positive", "negative"):
            if name in state:
                histogram = RunningHistogram(new.n_latents)
                histogram.counts, histogram.octaves = state[name]["counts"], state[name]["octaves"].numpy()
                setattr(new, name, histogram)
        new.top.restore_(state["top"])
        new.random.restore_(state["random"])
        new.shared.restore_(state["shared"].numpy())
        return new

    def records(self) -> LatentRecords:
        """Returns the result."""
        fired = self.counts > 0
        low, high = np.where(fired, self.lowest, 0.0), np.where(fired, self.highest, 0.0)
        bounds = self._quantile_bounds(low, high)
        partners = cofiring(self.shared.keys, self.counts, self.amounts.n_partners)
        return LatentRecords(
            self.n_tokens,
            self.n_sequences,
            torch.from_numpy(self.counts),
            torch.from_numpy(low).float(),
            torch.from_numpy(high).float(),
            torch.from_numpy(bounds).float(),
            self._histograms(),
            self.top.table(),
            self._quantile_table(bounds),
            Partners(*map(torch.from_numpy, (partners.latents, partners.jaccard, partners.share))),
            self.seed,
        )

    def _quantile_bounds(self, low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.float64]:
        """Returns the bounds of the quantiles, by linear interpolation within the bins of the histograms."""
        n = self.amounts.n_quantiles
        bounds = np.zeros((self.n_latents, n + 1))
        for first in range(0, self.n_latents, _ROWS):
            own = slice(first, first + _ROWS)
            counts, edges = self.positive.counts[own].numpy(), self.positive.edges(own)
            if self.negative is not None:
                counts = np.concatenate([self.negative.counts[own].numpy()[:, ::-1], counts], axis=1)
                edges = np.concatenate([-self.negative.edges(own)[:, :0:-1], edges], axis=1)
            below = np.cumsum(counts, axis=1, dtype=np.int64)
            rows = np.arange(len(counts))
            for q in range(1, n):
                wanted = below[:, -1] * (q / n)
                index = np.minimum((below < wanted[:, None]).sum(1), counts.shape[1] - 1)
                inside = counts[rows, index]
                share = (wanted - (below[rows, index] - inside)) / np.maximum(inside, 1)
                bounds[own, q] = edges[rows, index] + share * (edges[rows, index + 1] - edges[rows, index])
        bounds[:, 0], bounds[:, n] = low, high
        return np.clip(bounds, low[:, None], high[:, None])

    def _histograms(self) -> Histograms:
        limits = self.positive.limits()
        if self.negative is not None:
            limits = np.maximum(limits, self.negative.limits())
        parts = []
        for first in range(0, self.n_latents, _ROWS):
            own = slice(first, first + _ROWS)
            sides = [self.positive.linear(own, limits[own])]
            if self.negative is not None:
                sides.insert(0, self.negative.linear(own, limits[own])[:, ::-1])
            parts.append(np.concatenate(sides, axis=1))
        n_negative = 0 if self.negative is None else N_LINEAR
        widths = torch.from_numpy(limits / N_LINEAR).float()
        return Histograms(torch.from_numpy(np.concatenate(parts)), widths, n_negative)

    def _quantile_table(self, bounds: NDArray[np.float64]) -> ExampleTable:
        keys, n = self.random.best.keys, self.amounts.n_quantiles
        latent, slot = np.nonzero(keys >= 0)
        row = latent * keys.shape[1] + slot
        values = self.random.values[row]
        # A value on a bound belongs to the quantile above it.
        quantile = (values[:, None] >= bounds[latent][:, 1:n].astype(np.float32)).sum(1)
        group = latent * n + quantile
        order = np.lexsort((-keys[latent, slot], group))
        starts = np.searchsorted(group[order], group[order])
        order = order[np.arange(len(order)) - starts < self.amounts.n_per_quantile]
        order = order[np.lexsort((-np.abs(values[order]), group[order]))]
        return self.random.table_of(row[order], group[order], self.n_latents * n)
