"""`RulePart`, one part of the text in the form that rules are searched and measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict.analysis.scores._labels import Labels
from sparsedict.analysis.scores._token_latents import TokenLatents, lookup, offsets_of

MAX_GROUPS = 256
"""Largest number of groups of sequences that intervals resample."""


@dataclass(frozen=True, eq=False)
class RulePart:
    """The labels and the active latents of a part of the text.

    Attributes:
        ids: Value of each labelling at each kept token, ``[n_labellings, n_tokens]``; -1 where it has none.
        group: Group of sequences of each kept token, ``[n_tokens]``.
        n_groups: Number of groups.
        owner: Latent of each active entry, in ascending order, ``[n_active]``.
        token: Kept token of each active entry, ``[n_active]``.
        n_latents: Number of latents.
        sums: Sum and sum of squares of each latent's values over all tokens, ``[2, n_latents]``.
        values: All values, with the keys ``latent * n_tokens + token`` in ascending order.
    """

    ids: Int[Tensor, "n_labellings n_tokens"]
    group: Int[Tensor, " n_tokens"]
    n_groups: int
    owner: Int[Tensor, " n_active"]
    token: Int[Tensor, " n_active"]
    n_latents: int
    sums: Float[Tensor, "2 n_latents"]
    values: tuple[Tensor, Tensor]

    @property
    def n_tokens(self) -> int:
        return self.ids.shape[1]

    @cached_property
    def n_active(self) -> Int[Tensor, " n_latents"]:
        """Number of active tokens of each latent."""
        return torch.bincount(self.owner, minlength=self.n_latents)

    @cached_property
    def active_keys(self) -> Int[Tensor, " n_active"]:
        return self.owner * self.n_tokens + self.token

    def is_active(self, latent: Tensor, token: Tensor) -> Tensor:
        """Returns a mask of the pairs of a latent and a token on which it is active."""
        return lookup(self.active_keys, latent * self.n_tokens + token)[0]

    def values_at(self, latent: Tensor, token: Tensor) -> Tensor:
        """Returns the values of latents at tokens."""
        keys, values = self.values
        found, index = lookup(keys, latent * self.n_tokens + token)
        return (
            torch.where(found, values[index], 0.0)
            if len(keys)
            else torch.zeros(len(latent), device="cpu", dtype=torch.float32)
        )

    @cached_property
    def postings(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """For each labelling, the tokens sorted by value, and the first one of each value."""
        found = []
        for ids in self.ids:
            known = (ids >= 0).nonzero().squeeze(1)
            values = ids[known].long()
            order = torch.argsort(values, stable=True)
            found.append((known[order], offsets_of(values, int(values.max()) + 1 if len(values) else 0)))
        return tuple(found)


def part_of(
    text: TokenLatents, labels: Sequence[Labels], sequences: Tensor, thresholds: Float[Tensor, " n_latents"]
) -> RulePart:
    """Returns some sequences of the text as a part.

    Args:
        text: The whole text.
        labels: Labels on the whole text.
        sequences: Indices of sequences, in ascending order.
        thresholds: Magnitude from which on each latent counts as active.
    """
    part = text.sequences(sequences)
    kept = part.kept.flatten()
    number = torch.full((len(kept),), -1, device="cpu").masked_scatter(
        kept, torch.arange(int(kept.sum()), device="cpu")
    )
    ids = torch.stack([p.ids[sequences].flatten()[kept] for p in labels]).int()
    rows = torch.arange(len(sequences), device="cpu")
    n_groups = min(MAX_GROUPS, len(sequences))
    group = (rows * n_groups // len(sequences)).repeat_interleave(part.tokens.shape[1])[kept]
    owner, token = part.owner, number[part.positions]
    sums = torch.zeros(2, text.n_latents, dtype=torch.float64, device="cpu")
    sums[0].index_add_(0, owner, part.values.double())
    sums[1].index_add_(0, owner, part.values.double().square())
    active = (part.values.abs() >= thresholds[owner]) & (part.values != 0)
    keys = owner * ids.shape[1] + token
    return RulePart(ids, group, n_groups, owner[active], token[active], text.n_latents, sums, (keys, part.values))
