"""Gathers the entries above a threshold, without their number on the host."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict.kernels._triton import _programs as programs
from sparsedict.kernels._triton._launch import _on

MAX_COLUMNS = 1024
"""Number of entries of a token that are processed together."""


class Compaction:
    """Collects the pre-activations above a threshold block by block, in a buffer of fixed size.

    Args:
        threshold: A scalar or one value per latent, on the device.
        n_tokens: Total number of tokens of all blocks.
        capacity: Number of entries of the buffer.
        padding: Value beyond the last entry, a scalar on the device.
    """

    def __init__(self, threshold: Tensor, n_tokens: int, capacity: int, padding: Float[Tensor, ""]) -> None:
        self._threshold = threshold.contiguous()
        self._capacity = capacity
        self.latents: Int[Tensor, " n_entries"] = torch.zeros(capacity, dtype=torch.int64, device=padding.device)
        self.values: Float[Tensor, " n_entries"] = padding.expand(capacity).clone()
        self._ends = torch.zeros(n_tokens + 1, dtype=torch.int64, device=padding.device)

    def take(self, begin: int, pre: Float[Tensor, "n_block n_latents"]) -> None:
        """Adds the entries of the tokens from ``begin`` on."""
        n_block, n_latents = pre.shape
        ends = self._ends[begin : begin + n_block + 1]
        threshold, step = self._threshold, int(self._threshold.ndim > 0)
        ends[1:] = counts_above(pre, threshold)
        ends.copy_(ends.cumsum(0))
        with _on(pre.device):
            programs.gather_above[(n_block,)](
                pre,
                threshold,
                step,
                ends,
                self.latents,
                self.values,
                n_latents,
                self._capacity,
                BLOCK=_block(n_latents),
            )

    @property
    def count(self) -> Int[Tensor, ""]:
        """Number of entries above the threshold, including those beyond the capacity."""
        return self._ends[-1]

    @property
    def offsets(self) -> Int[Tensor, " n_tokens_and_one"]:
        """Offsets of the entries of each token."""
        return self._ends.clamp(max=self._capacity)


def counts_above(pre: Float[Tensor, "n_tokens n_latents"], threshold: Tensor) -> Int[Tensor, " n_tokens"]:
    """Counts the entries of each token above a threshold, a scalar or one per latent. NaN counts as above."""
    n_tokens, n_latents = pre.shape
    counts = torch.empty(n_tokens, dtype=torch.int64, device=pre.device)
    with _on(pre.device):
        programs.count_above[(n_tokens,)](
            pre, threshold, int(threshold.ndim > 0), counts, n_latents, BLOCK=_block(n_latents)
        )
    return counts


def _block(n_latents: int) -> Any:
    return min(MAX_COLUMNS, 1 << (n_latents - 1).bit_length())
