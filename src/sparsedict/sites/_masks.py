"""Which tokens are padding, read from an attention mask of any form."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

MASKED_SCORE = -5_000.0
"""Keys whose scores are lowered by more than this aren't attended to. Models mask by -10,000 or less, down to -inf."""


def real_tokens(mask: Tensor, n_positions: int, n_past: int | None) -> tuple[Bool[Tensor, "n_sequences n"], int]:
    """Returns which tokens aren't padding, and how many of them came before the positions of this call.

    Args:
        mask: Over the new tokens ``[n_sequences, n_positions]``, over these and the cached ones ``[n_sequences,
            n_keys]``, or over queries and keys ``[n_sequences, n_heads, n_positions, n_keys]`` (boolean, or added to
            the scores).
        n_positions: Positions of this call.
        n_past: Positions that the cache holds; None if it isn't known.

    Returns:
        For the tokens up to the last of this call ``[n_sequences, n_before + n_positions]``, and ``n_before``.

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
    """Keys of a mask that come before the positions of a call: a static cache's mask goes beyond them."""
    if n_keys == n_positions:
        return 0
    return n_past if n_past is not None and n_past + n_positions <= n_keys else n_keys - n_positions


def _attended_keys(mask: Tensor, n_positions: int, n_past: int | None) -> Tensor:
    """Keys that hold tokens, from a mask over queries and keys ``[n_sequences, (n_heads,) n_queries, n_keys]``."""
    allowed = mask if mask.dtype == torch.bool else _added(mask)
    if allowed.ndim == 4:
        allowed = allowed.any(1)
    first = _n_before(allowed.shape[-1], n_positions, n_past)
    rows = allowed[:, -n_positions:]
    # Rows of padding are sometimes opened wholly, for a softmax over nothing is NaN: such rows say nothing of padding.
    tells = ~rows.all(-1)
    attended = (rows & tells.unsqueeze(-1)).any(1)
    # Where no later row tells, a token attends to itself unless it is padding.
    own = rows.diagonal(first, -2, -1)
    later = tells.flip(-1).cumsum(-1).flip(-1) - tells.long() > 0
    attended[:, first : first + n_positions] |= own & ~later
    if n_positions:
        # A key that no row of this call may see tells nothing, unless the last row could have seen it.
        attended |= ~tells.any(-1, keepdim=True)
    return attended


def _added(mask: Tensor) -> Tensor:
    """Whether a key is attended to: by a mask of zeros and ones, or by what is added to its score."""
    if not mask.is_floating_point() or bool((mask > 0).any()):
        return mask > 0
    return mask > MASKED_SCORE
