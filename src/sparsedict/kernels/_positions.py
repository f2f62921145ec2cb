from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LOG2_WORD = 3
WORD = 2**LOG2_WORD
"""Entries of a mask that are looked at together: those of a 64-bit integer."""

MIN_WORDS = 2**13
"""Words below which a second search costs more than it saves."""

MAX_WORDS_SHARE = 1 / 4
"""Share of words with a true entry beyond which looking at words first gains nothing."""


def positions_where(mask: Bool[Tensor, "*shape"]) -> Int[Tensor, " n_true"]:
    """Returns the flat positions of a mask's true entries, ascending."""
    if mask.device.type != "cpu":
        return mask.flatten().nonzero().flatten()
    n_words = mask.numel() // WORD
    # Words are sought by PyTorch's threads; with one of them NumPy's single search is faster.
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
    # NumPy skips false entries several times faster than PyTorch.
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def positions_above(
    entries: Float[Tensor, "n_tokens n_latents"], threshold: Float[Tensor, "*n_tokens_and_one"]
) -> Int[Tensor, " n_above"]:
    """Returns the flat positions of entries greater than a threshold, ascending; NaN counts as greater."""
    if entries.device.type != "cpu" or entries.dtype not in (torch.float32, torch.float64):
        return positions_where(~(entries <= threshold))
    mask = np.less_equal(entries.numpy(), threshold.to(entries.dtype).numpy())
    return positions_where(torch.from_numpy(np.logical_not(mask, out=mask)))
