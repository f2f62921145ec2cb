"""Scores that are the share of trials that succeed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sparsedict.analysis._bootstrap import row_intervals
from sparsedict.analysis.scores._example_draws import Draws
from sparsedict.analysis.scores._representations import Representation, represented_by, standardised
from sparsedict.analysis.scores._result import LatentScores
from sparsedict.analysis.scores._token_latents import TokenLatents

MIN_TRIALS = 5


def represented(
    text: TokenLatents, draws: list[Draws], represent: Representation
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields latents with the unit vectors of their active and inactive examples. Each token is represented once."""
    used = torch.cat(
        [torch.cat([d.active.flatten(), d.inactive.flatten()]) for d in draws]
        or [torch.zeros(0, device="cpu", dtype=torch.int64)]
    )
    used = used.unique()
    if not len(used):
        return
    states = standardised(represented_by(represent, text, used))
    for own in draws:
        active, inactive = (states[torch.searchsorted(used, tokens)] for tokens in (own.active, own.inactive))
        yield own.latents, active, inactive


def share_of_trials(
    name: str,
    text: TokenLatents,
    successes: Iterator[tuple[Tensor, Tensor]],
    *,
    chance: float,
    seed: int,
    columns: Callable[[Tensor], dict[str, Tensor]] = lambda _: {},
) -> LatentScores:
    """Returns the share of successful trials of each latent, with its interval over resamples of the trials.

    Args:
        name: Name of the score.
        text: Latents on text.
        successes: Latents, and 1 for each trial that succeeded, else 0, ``[n_chosen, n_trials]``.
        chance: The expected share without any relation to the text.
        seed: Random seed of the intervals.
        columns: Returns further columns, given the successes ``[n_latents, n_trials]``.
    """
    parts = list(successes)
    n_trials = parts[0][1].shape[1] if parts else MIN_TRIALS
    table = torch.full((text.n_latents, n_trials), torch.nan, device="cpu", dtype=torch.float32)
    for latents, success in parts:
        table[latents] = success.float()
    scored = ~table[:, 0].isnan()
    low, high = (torch.full((text.n_latents,), torch.nan, device="cpu", dtype=torch.float32) for _ in range(2))
    if bool(scored.any()):
        low[scored], high[scored] = row_intervals(
            lambda weights: table[scored] @ (weights / weights.sum(0)), n_trials, seed=seed
        )
    return LatentScores(
        name=name,
        value=table.mean(1),
        chance=torch.full((text.n_latents,), chance, device="cpu", dtype=torch.float32),
        low=low,
        high=high,
        columns=columns(table),
        notes={"n_tokens": text.n_tokens, "n_trials": n_trials},
        seed=seed,
    )


def by_quantile(table: Tensor, n_quantiles: int) -> dict[str, Tensor]:
    """Returns the share of successful trials of each quantile, the weakest activations first."""
    return {f"quantile {q + 1}": table[:, q::n_quantiles].mean(1) for q in range(n_quantiles)}
