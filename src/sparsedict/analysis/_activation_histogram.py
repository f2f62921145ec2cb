"""Running histograms of the activations of many latents, whose range grows with the largest value."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BITS = 5
STEPS = 2**BITS
"""Number of bins of one octave."""
N_OCTAVES = 12
N_LINEAR = 2 * STEPS
"""Number of equal bins from 0 to the power of two above the largest magnitude."""
_WIDTH = STEPS * N_OCTAVES + 1
_MANTISSA = 23


class RunningHistogram:
    r"""Histograms of positive numbers, one for each latent.

    Bins have a relative width of at most $2^{-5}$: each octave $[2^e, 2^{e+1})$ has 32 equal bins. A histogram covers
    the 12 octaves below the largest value; all smaller values are in one bin. If a larger value arrives, the bins move
    down by whole octaves. The result is exact and doesn't depend on the order of the values.

    Args:
        n_latents: Number of latents.
    """

    def __init__(self, n_latents: int) -> None:
        self.counts: Tensor = torch.zeros(n_latents, _WIDTH, dtype=torch.int32, device="cpu")
        self.octaves: NDArray[np.int32] = np.full(n_latents, -1, dtype=np.int32)

    def update_(self, latents: NDArray[np.int32], values: NDArray[np.float32]) -> None:
        """Adds positive values of some latents, ordered by latent."""
        if not len(values):
            return
        # The upper bits of a positive float are its octave and its position in the octave. Subnormal numbers, which
        # have no octave, count as the smallest normal number.
        codes = np.maximum(values.view(np.int32) >> (_MANTISSA - BITS), STEPS)
        starts = np.flatnonzero(np.diff(latents, prepend=-1))
        rows = latents[starts]
        self._raise_(rows, np.maximum.reduceat(codes, starts) >> BITS)
        bins = codes - (self.octaves[latents] - (N_OCTAVES - 1)) * STEPS + 1
        flat = latents.astype(np.int64) * _WIDTH + np.maximum(bins, 0)
        self.counts.view(-1).index_add_(
            0, torch.from_numpy(flat), torch.ones(len(flat), dtype=torch.int32, device="cpu")
        )

    def _raise_(self, rows: NDArray[np.int32], octaves: NDArray[np.int32]) -> None:
        """Moves the bins of latents with values in a higher octave."""
        old = self.octaves[rows]
        shifts = np.where(old >= 0, octaves - old, 0)
        for shift in np.unique(shifts[shifts > 0]).tolist():
            chosen = torch.from_numpy(rows[shifts == shift].astype(np.int64))
            before = self.counts[chosen]
            after = torch.zeros_like(before)
            n_lost = min(shift * STEPS, _WIDTH - 1)
            after[:, 1 : _WIDTH - n_lost] = before[:, 1 + n_lost :]
            after[:, 0] = before[:, : 1 + n_lost].sum(1)
            self.counts[chosen] = after
        self.octaves[rows] = np.maximum(old, octaves)

    def edges(self, latents: slice) -> NDArray[np.float64]:
        """Returns the edges of all bins, ``[n_latents, n_bins + 1]``; the first bin starts at 0."""
        octaves = np.exp2(np.arange(-N_OCTAVES, 0, dtype=np.float64))
        lowest = octaves[:, None] * (1 + np.arange(STEPS) / STEPS)
        return np.concatenate([[0.0], lowest.flatten(), [1.0]]) * self.limits(latents)[:, None]

    def limits(self, latents: slice = slice(None)) -> NDArray[np.float64]:
        """Returns the power of two above the largest value of each latent; 0 for a latent without values."""
        octaves = self.octaves[latents].astype(np.float64)
        return np.where(octaves >= 0, np.exp2(octaves - 126), 0.0)

    def linear(self, latents: slice, limits: NDArray[np.float64]) -> NDArray[np.int64]:
        """Returns the counts in ``N_LINEAR`` equal bins from 0 to a power of two, which is at least the limit."""
        counts = self.counts[latents].numpy()
        own = self.limits(latents)
        found = np.zeros((len(counts), N_LINEAR), dtype=np.int64)
        raised = np.log2(np.divide(limits, own, out=np.ones_like(own), where=own > 0)).astype(np.int64)
        relative = self.edges(latents)[:, :-1] / np.where(own > 0, own, 1.0)[:, None]
        # Edges are exact in binary, so each narrow bin lies in one wide bin.
        target = np.floor(relative * N_LINEAR / np.exp2(raised)[:, None]).astype(np.int64)
        np.add.at(found, (np.arange(len(counts))[:, None], target), counts)
        return found
