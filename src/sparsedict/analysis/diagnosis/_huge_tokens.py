"""`HugeTokens`, tokens whose activations are far larger than those of other tokens, and their positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict.display import Displayed

HUGE = 6.0
"""Distance from the median, relative to the median distance, above which a token is huge."""
N_LISTED = 8
"""Largest number of token ids that are listed."""


@dataclass(frozen=True)
class TokenShare:
    """How often the positions of a token id have a property.

    Attributes:
        token: The token id.
        n: Number of its positions with the property.
        n_seen: Number of its positions.
        share: Share of a total, such as the squared error, at its positions.
    """

    token: int
    n: int
    n_seen: int
    share: float


@dataclass(frozen=True, eq=False, repr=False)
class HugeTokens(Displayed):
    """Tokens whose distance from the median activation is more than 6 times the median distance.

    Attributes:
        mask: True for huge tokens, ``[n_tokens]``.
        variance_share: Share of the squared distances from the median that they hold.
        n_first: Number of huge tokens at the first position of a sequence; ``None`` if positions are unknown.
        n_first_seen: Number of tokens at the first position.
        tokens: Their most frequent ids, with the number of their positions that are huge; ``None`` if ids are unknown.
            ``share`` is that of the squared distances.

    Source: Sun et al., "Massive Activations in Large Language Models", 2024, arXiv 2402.17762, describe such tokens:
    the first one of a sequence and a few delimiters.
    """

    mask: Bool[Tensor, " n_tokens"]
    variance_share: float
    n_first: int | None
    n_first_seen: int
    tokens: tuple[TokenShare, ...] | None

    @property
    def n(self) -> int:
        return int(self.mask.sum())

    @property
    def share(self) -> float:
        """Share of the tokens that are huge."""
        return self.n / max(1, len(self.mask))

    @property
    def covered(self) -> float:
        """Share of the huge tokens whose id is huge on at least half of its positions."""
        listed = () if self.tokens is None else self.tokens
        return sum(own.n for own in listed if 2 * own.n >= own.n_seen) / max(1, self.n)

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns their number and where they stand."""
        rows = [("huge tokens", f"{self.n:,} of {len(self.mask):,} ({self.share:.2%})")]
        if self.n:
            rows.append(("their share of the squared distances", f"{self.variance_share:.1%}"))
        if self.n and self.n_first is not None:
            rows.append(("at the first position", f"{self.n_first / self.n:.0%}"))
        if self.n and self.tokens:
            listed = ", ".join(f"{own.token} ({own.n} of {own.n_seen})" for own in self.tokens[:4])
            rows.append(("their ids (huge of all)", listed))
        return rows


def huge_tokens(
    rows: Float[Tensor, "n_tokens d"],
    tokens: Int[Tensor, " n_tokens"] | None = None,
    positions: Int[Tensor, " n_tokens"] | None = None,
) -> HugeTokens:
    """Returns the huge tokens of some activations.

    Args:
        rows: Activations.
        tokens: Token ids.
        positions: Positions in the sequences.
    """
    distances = (rows - rows.median(0).values).double().square().sum(1)
    mask = (distances > HUGE**2 * distances.median()) & (distances > 0)
    total = distances.sum().clamp_min(torch.finfo(distances.dtype).tiny)
    first = None if positions is None else positions == 0
    return HugeTokens(
        mask.cpu(),
        float(distances[mask].sum() / total),
        None if first is None else int((mask & first).sum()),
        0 if first is None else int(first.sum()),
        None if tokens is None else by_token(tokens, mask, distances / total),
    )


def by_token(
    tokens: Int[Tensor, " n_tokens"], mask: Bool[Tensor, " n_tokens"], shares: Float[Tensor, " n_tokens"]
) -> tuple[TokenShare, ...]:
    """Returns the ids with most positions in a mask, most frequent ones first."""
    ids, index = tokens.unique(return_inverse=True)
    counts = torch.zeros(3, len(ids), dtype=torch.float64, device=shares.device)
    for row, values in zip(counts, (mask, torch.ones_like(mask), shares), strict=True):
        row.index_add_(0, index, values.double())
    order = counts[0].sort(descending=True, stable=True).indices[:N_LISTED]
    return tuple(
        TokenShare(int(ids[i]), int(counts[0, i]), int(counts[1, i]), float(counts[2, i]))
        for i in order.tolist()
        if counts[0, i] > 0
    )
