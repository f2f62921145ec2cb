"""Random examples of latents: tokens on which they are active, by quantile, and tokens on which they are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from sparsedict.analysis.scores._token_latents import TokenLatents, checked_text
from sparsedict.seeds import generator

N_AT_ONCE = 256
"""Number of latents whose examples are drawn at once."""
_DRAWS = int.from_bytes(b"draw", "big")
_SPARE = 8


@dataclass(frozen=True, eq=False)
class Draws:
    """Examples for several trials of each of some latents.

    Attributes:
        latents: The latents, ``[n_chosen]``.
        active: Tokens on which they are active, of one quantile in each trial, ``[n_chosen, n_trials, n_active]``.
        inactive: Tokens on which they aren't, ``[n_chosen, n_trials, n_inactive]``.
    """

    latents: Int[Tensor, " n_chosen"]
    active: Int[Tensor, "n_chosen n_trials n_active"]
    inactive: Int[Tensor, "n_chosen n_trials n_inactive"]


def draw_examples(
    text: TokenLatents,
    *,
    n_active: int,
    n_inactive: int,
    n_trials: int,
    n_quantiles: int,
    min_quantiles: int | None = None,
    context: tuple[int, int] = (0, 0),
    seed: int,
) -> Iterator[Draws]:
    """Yields examples of the latents that are active on enough tokens, in blocks of latents.

    Each trial takes the active examples from one quantile of the magnitudes, in turn, without repetition. The inactive
    examples are drawn from all tokens. A latent that is active on almost all tokens is left out.

    Args:
        text: Latents on text.
        n_active: Number of active examples in a trial.
        n_inactive: Number of inactive examples in a trial.
        n_trials: Number of trials.
        n_quantiles: Number of quantiles.
        min_quantiles: Smallest number of quantiles, for latents with few active tokens. By default ``n_quantiles``.
        context: Number of tokens before and after an inactive example, within its sequence. Examples without an active
            token in their context are preferred.
        seed: Random seed.
    """
    text = checked_text(text)
    min_quantiles = n_quantiles if min_quantiles is None else min_quantiles
    random = generator(seed, _DRAWS)
    scale = 2 * text.values.abs().double().max().clamp(min=1e-30) if len(text.values) else 1.0
    ascending = text.positions[torch.argsort(text.owner.double() + text.values.abs().double() / scale)]
    enough = (text.counts >= min_quantiles * n_active).nonzero().squeeze(1)
    places = text.kept.flatten().nonzero().squeeze(1)
    keys = text.owner * text.tokens.numel() + text.positions
    for latents in enough.split(N_AT_ONCE):
        counts = text.counts[latents].unsqueeze(1)
        n_parts = (counts // n_active).clamp(max=n_quantiles)
        quantile = torch.arange(n_trials, device="cpu") % n_parts
        starts = counts * quantile // n_parts
        sizes = counts * (quantile + 1) // n_parts - starts
        chosen = _without_repetition(sizes, n_active, random)
        active = ascending[(text.offsets[latents].unsqueeze(1) + starts).unsqueeze(2) + chosen]
        drawn = torch.randint(
            len(places), (len(latents), n_trials, n_inactive + _SPARE), generator=random, device="cpu"
        )
        tokens = places[drawn]
        owner = latents.view(-1, 1, 1) * text.tokens.numel()
        is_active = _has_key(keys, owner + tokens, owner + tokens)
        in_row = tokens % text.tokens.shape[1]
        before = torch.minimum(in_row, torch.tensor(context[0], device="cpu"))
        after = torch.minimum(text.tokens.shape[1] - 1 - in_row, torch.tensor(context[1], device="cpu"))
        near = _has_key(keys, owner + tokens - before, owner + tokens + after)
        # Inactive tokens first, above all those with an inactive context, in the order in which they were drawn.
        rank, order = (is_active.int() + near.int()).sort(dim=2, stable=True)
        complete = (rank[:, :, :n_inactive] < 2).all(2).all(1)
        inactive = tokens.gather(2, order)[:, :, :n_inactive]
        yield Draws(latents[complete], active[complete], inactive[complete])


def _has_key(keys: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Returns whether a sorted vector has a number from ``first`` to ``last``."""
    index = torch.searchsorted(keys, first)
    return (index < len(keys)) & (keys[index.clamp(max=len(keys) - 1)] <= last)


def _without_repetition(sizes: Tensor, n: int, random: torch.Generator) -> Tensor:
    """Returns ``n`` different numbers below each size ``[...]``, ``[..., n]`` (Floyd's algorithm)."""
    chosen = torch.full((*sizes.shape, n), -1, device="cpu")
    for i in range(n):
        largest = sizes - n + i
        drawn = (torch.rand(sizes.shape, generator=random, dtype=torch.float64, device="cpu") * (largest + 1)).long()
        is_taken = (chosen[..., :i] == drawn.unsqueeze(-1)).any(-1)
        chosen[..., i] = torch.where(is_taken, largest, drawn)
    return chosen
