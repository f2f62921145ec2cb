"""What latents fire on: their strongest examples, and how many of these fall on one token."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import torch

from sparsedict.analysis import TopExamples, top_examples

from ..bench import Bench
from ..order import Order

N_EXAMPLES = 10
MIN_EXAMPLES = N_EXAMPLES // 2
CONTEXT = 12


def examples_of(bench: Bench, order: Order, latents: Iterable[int]) -> dict[int, TopExamples]:
    """Looks for the strongest examples of some latents on held-out text."""
    latents = list(latents)
    n_sequences = math.ceil(bench.setting.n_held_out / bench.held_out_tokens.shape[1])
    with bench.phases("examples", f"looking for the strongest examples of {len(latents)} latents"):
        return top_examples(
            bench.sites[order.site],
            bench.dictionary(order),
            bench.held_out_tokens[:n_sequences],
            latents=latents,
            n_examples=N_EXAMPLES,
            context=CONTEXT,
        )


def token_share(found: TopExamples) -> float | None:
    """Returns the share of a latent's examples that fall on its most frequent token; None of too few examples."""
    if len(found) < MIN_EXAMPLES:
        return None
    return max(Counter(int(e.tokens[e.peak]) for e in found.examples).values()) / len(found)


def rank_correlation(a: list[float], b: list[float]) -> float | None:
    """Returns Spearman's correlation, ties sharing their mean rank; None where either doesn't vary."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    ranks = torch.stack([_ranks(torch.tensor(values, dtype=torch.float64)) for values in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values: torch.Tensor) -> torch.Tensor:
    smaller = (values[:, None] > values).sum(1).double()
    equal = (values[:, None] == values).sum(1).double()
    return smaller + (equal - 1) / 2
