"""Identifies padding from attention masks of any form."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

MASKED_SCORE = -5_000.0
"""Keys with an additive mask below this value aren't attended to. Models use values from -10,000 down to -inf."""


def real_tokens(mask: Tensor, n_positions: int, n_past: int | None) -> tuple[Bool[Tensor, "n_sequences n"], int]:
    """Returns a mask of the tokens that aren't padding, and the number of tokens before this call.

    Args:
        mask: Mask over the new tokens ``[n_sequences, n_positions]``, over the cached and new tokens ``[n_sequences,
            n_keys]``, or over queries and keys ``[n_sequences, n_heads, n_positions, n_keys]`` (boolean, or added to
            the scores).
        n_positions: Number of positions of this call.
        n_past: Number of positions in the cache; None if unknown.

    Returns:
        A mask ``[n_sequences, n_before + n_positions]``, and ``n_before``.

    Raises:
        ValueError: If the mask has fewer columns than the call has positions.
    """
    if mask.shape[-1] < n_positions:
        raise ValueError(
            f"`attention_mask` must have a column for each of the {n_positions} positions, got {tuple(mask.shape)}."
        )
    attended = mask != 0 if mask.ndim == 2 else _attended_keys(mask, n_positions, n_past)
    n_before = _n_before(mask.shape[-1], n_positions, n_past)
    return attended[:, : n_before + n_positions], n_before


def _n_before(n_keys: int, n_positions: int, n_past: int | None) -> int:
    """Returns the number of a mask's keys before the positions of a call. A static cache has more keys after them."""
    if n_keys == n_positions:
        return 0
    return n_past if n_past is not None and n_past + n_positions <= n_keys else n_keys - n_positions


def _attended_keys(mask: Tensor, n_positions: int, n_past: int | None) -> Tensor:
    """Returns the keys that are tokens, from a mask ``[n_sequences, (n_heads,) n_queries, n_keys]``."""
    allowed = mask if mask.dtype == torch.bool else _added(mask)
    if allowed.ndim == 4:
        allowed = allowed.any(1)
    first = _n_before(allowed.shape[-1], n_positions, n_past)
    rows = allowed[:, -n_positions:]
    # Rows of padding may attend to all keys, since a softmax over no keys is NaN. They don't identify padding.
    tells = ~rows.all(-1)
    attended = (rows & tells.unsqueeze(-1)).any(1)
    # If no later row attends to a token, it attends to itself unless it is padding.
    own = rows.diagonal(first, -2, -1)
    later = tells.flip(-1).cumsum(-1).flip(-1) - tells.long() > 0
    attended[:, first : first + n_positions] |= own & ~later
    if n_positions:
        # A key that no row attends to is undetermined, unless the last row could have attended to it.
        attended |= ~tells.any(-1, keepdim=True)
    return attended


def _added(mask: Tensor) -> Tensor:
    """Returns the keys that are attended to, for a mask of zeros and ones or an additive mask."""
    if not mask.is_floating_point() or bool((mask > 0).any()):
        return mask > 0
    return mask > MASKED_SCORE
