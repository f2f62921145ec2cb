"""Division of the tokens of a source into rows of the same length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedict.data import BlockSize, TokenSource


@dataclass(frozen=True)
class Rows:
    """Rows of the same length, and the rows that are left out because they are shorter.

    Attributes:
        whole: The rows.
        n_short: Number of rows that are left out.
        n_short_tokens: Number of their tokens.
    """

    whole: Sequence[Tensor]
    n_short: int
    n_short_tokens: int


def read_rows(source: TokenSource, n_tokens: int) -> list[Tensor]:
    """Returns the rows of a source without padding, until they have a number of tokens."""
    rows: list[Tensor] = []
    n_read = 0
    for block in source.blocks(None, 0, (0, 0), BlockSize(None, min(2**12, n_tokens), 2**62, pads=True)):
        if block.attention_mask is None:
            rows += block.tokens
        else:
            rows += [own[its] for own, its in zip(block.tokens, block.attention_mask, strict=True)]
        n_read += block.tokens.numel()
        if n_read >= n_tokens:
            break
    return rows


def divided(rows: Sequence[Tensor], context: int, *, join: bool) -> list[Tensor]:
    """Returns rows that are split to a length. The last part of each may be shorter.

    Args:
        rows: The rows.
        context: The length.
        join: Whether the rows are joined first, so that a part may have tokens of several rows.
    """
    if join and rows:
        rows = [torch.cat([*rows])]
    return [part for row in rows for part in row.split(context) if len(part)]


def whole_rows(rows: Sequence[Tensor], context: int) -> Rows:
    """Returns the rows of a length."""
    short = [len(row) for row in rows if len(row) != context]
    return Rows([row for row in rows if len(row) == context], len(short), sum(short))
