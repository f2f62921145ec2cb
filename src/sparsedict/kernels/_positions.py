"""Positions of the true entries of a mask, with a fast search for sparse masks on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LOG2_WORD = 3
WORD = 2**LOG2_WORD
"""Number of mask entries that are tested together, as a 64-bit integer."""

MIN_WORDS = 2**13
"""Number of words below which testing words first is slower."""

MAX_WORDS_SHARE = 1 / 4
"""Fraction of words with a true entry above which testing words first is slower."""


def positions_where(mask: Bool[Tensor, "*shape"]) -> Int[Tensor, " n_true"]:
    """Returns the flat positions of a mask's true entries, in ascending order."""
    if mask.device.type != "cpu":
        return mask.flatten().nonzero().flatten()
    n_words = mask.numel() // WORD
    # PyTorch searches words with several threads. With a single thread, one search by NumPy is faster.
    if n_words >= MIN_WORDS and _is_of_words(mask) and torch.get_num_threads() > 1:
        words = mask.view(-1).view(torch.int64)
        hit = words.nonzero().view(-1)
        if len(hit) <= MAX_WORDS_SHARE * n_words:
            inside = _true(words.index_select(0, hit).view(torch.bool))
            # Shifts are ten times faster than divisions.
            return hit.index_select(0, inside >> LOG2_WORD).mul_(WORD).add_(inside & (WORD - 1))
    return _true(mask)


def _is_of_words(mask: Tensor) -> bool:
    return mask.is_contiguous() and not mask.numel() % WORD and not mask.storage_offset() % WORD


def _true(mask: Tensor) -> Tensor:
    # For masks with few true entries, NumPy is several times faster than PyTorch.
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def positions_above(
    entries: Float[Tensor, "n_tokens n_latents"], threshold: Float[Tensor, "*n_tokens_and_one"]
) -> Int[Tensor, " n_above"]:
    """Returns the flat positions of entries above a threshold, in ascending order. NaN counts as above."""
    if entries.device.type != "cpu" or entries.dtype not in (torch.float32, torch.float64):
        return positions_where(~(entries <= threshold))
    mask = np.less_equal(entries.numpy(), threshold.to(entries.dtype).numpy())
    return positions_where(torch.from_numpy(np.logical_not(mask, out=mask)))
