"""Excerpts of the text for prompts: examples of a latent with its active tokens marked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from sparsedict.analysis.scores._representations import marked, windows
from sparsedict.analysis.scores._token_latents import TokenLatents

MARK = ("<<", ">>")
NEAR_PEAK = 0.3
"""Tokens of an excerpt are marked if the latent has at least this share of its value at the excerpt's peak."""


@dataclass(frozen=True)
class Excerpt:
    """A piece of text around a token.

    Attributes:
        window: Position and string of each token.
        active: Positions of the tokens on which the latent is active, at a strength near that of the excerpt's token.
        has_latent: Whether the latent is active on any token.
    """

    window: list[tuple[int, str]]
    active: frozenset[int]
    has_latent: bool

    @property
    def plain(self) -> str:
        """The text in one line, without marks."""
        return _one_line(marked(self.window, (), MARK))

    def with_marks(self, positions: frozenset[int]) -> str:
        """Returns the text in one line with marks around some tokens."""
        return _one_line(marked(self.window, positions, MARK))

    @property
    def marked(self) -> str:
        """The text in one line, with marks around the active tokens."""
        return self.with_marks(self.active)

    def mismarked(self, random: torch.Generator) -> str | None:
        """Returns the text with marks around as many other tokens, or None if there are no others."""
        others = [place for place, string in self.window if place not in self.active and string.strip()]
        if not others:
            return None
        order = torch.randperm(len(others), generator=random, device="cpu")[: len(self.active)].tolist()
        return self.with_marks(frozenset(others[i] for i in order))


def excerpts(text: TokenLatents, latent: int, positions: Int[Tensor, " n"], before: int, after: int) -> list[Excerpt]:
    """Returns the text around some positions, with the tokens on which a latent is active."""
    begin, end = text.offsets[latent : latent + 2].tolist()
    places, values = text.positions[begin:end], text.values[begin:end].abs()
    found = []
    chosen = positions.tolist()
    for position, window in zip(chosen, windows(text, chosen, before, after), strict=True):
        first, last = torch.searchsorted(places, torch.tensor([window[0][0], window[-1][0] + 1], device="cpu")).tolist()
        inside, strength = places[first:last], values[first:last]
        peak = strength[inside == position]
        least = float(peak[0]) * NEAR_PEAK if len(peak) else torch.inf
        found.append(Excerpt(window, frozenset(inside[strength >= least].tolist()), last > first))
    return found


def _one_line(text: str) -> str:
    """Shows line breaks as symbols, so that every excerpt is one line of the prompt."""
    return text.replace("\r", "").replace("\n", "⏎")
