"""Gathering the entries above a threshold where the host doesn't know how many there are."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict.kernels._triton import _programs as programs
from sparsedict.kernels._triton._launch import _on

MAX_COLUMNS = 1024
"""Entries of a token that are looked at at once."""


class Compaction:
    """Takes pre-activations block by block and keeps those above a threshold, in a buffer of fixed size.

    Args:
        threshold: A scalar or one value per latent, on the device.
        n_tokens: Tokens of all blocks together.
        capacity: Entries of the buffer.
        padding: What values are beyond the last entry, a scalar on the device.
    """

    def __init__(self, threshold: Tensor, n_tokens: int, capacity: int, padding: Float[Tensor, ""]) -> None:
        self._threshold = threshold.contiguous()
        self._capacity = capacity
        self.latents: Int[Tensor, " n_entries"] = torch.zeros(capacity, dtype=torch.int64, device=padding.device)
        self.values: Float[Tensor, " n_entries"] = padding.expand(capacity).clone()
        self._ends = torch.zeros(n_tokens + 1, dtype=torch.int64, device=padding.device)

    def take(self, begin: int, pre: Float[Tensor, "n_block n_latents"]) -> None:
        """Keeps entries of the tokens that follow those before ``begin``."""
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
        """Entries above the threshold, also those for which there was no room."""
        return self._ends[-1]

    @property
    def offsets(self) -> Int[Tensor, " n_tokens_and_one"]:
        """Where the entries of each token begin, and the last end."""
        return self._ends.clamp(max=self._capacity)


def counts_above(pre: Float[Tensor, "n_tokens n_latents"], threshold: Tensor) -> Int[Tensor, " n_tokens"]:
    """Returns how many entries of each token exceed a threshold, a scalar or one per latent; NaN counts as greater."""
    n_tokens, n_latents = pre.shape
    counts = torch.empty(n_tokens, dtype=torch.int64, device=pre.device)
    with _on(pre.device):
        programs.count_above[(n_tokens,)](
            pre, threshold, int(threshold.ndim > 0), counts, n_latents, BLOCK=_block(n_latents)
        )
    return counts


def _block(n_latents: int) -> Any:
    return min(MAX_COLUMNS, 1 << (n_latents - 1).bit_length())
