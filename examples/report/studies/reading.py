"""The strongest examples of latents, and statistics of their tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import torch

from sparsedict.analysis import TopExamples, top_examples

from ..dictionary_spec import DictionarySpec
from ..experiment import Experiment

N_EXAMPLES = 10
MIN_EXAMPLES = N_EXAMPLES // 2
CONTEXT = 12


def examples_of(experiment: Experiment, spec: DictionarySpec, latents: Iterable[int]) -> dict[int, TopExamples]:
    """Returns the strongest examples of some latents on held-out text."""
    latents = list(latents)
    n_sequences = math.ceil(experiment.setting.n_held_out / experiment.held_out_tokens.shape[1])
    with experiment.phases("examples", f"looking for the strongest examples of {len(latents)} latents"):
        return top_examples(
            experiment.sites[spec.site],
            experiment.dictionary(spec),
            experiment.held_out_tokens[:n_sequences],
            latents=latents,
            n_examples=N_EXAMPLES,
            context=CONTEXT,
        )


def token_share(found: TopExamples) -> float | None:
    """Returns the share of examples on the most frequent token, or None if there are too few examples."""
    if len(found) < MIN_EXAMPLES:
        return None
    return max(Counter(int(e.tokens[e.peak]) for e in found.examples).values()) / len(found)


def rank_correlation(a: list[float], b: list[float]) -> float | None:
    """Returns the Spearman correlation, with mean ranks for ties, or None if either list is constant."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    ranks = torch.stack([_ranks(torch.tensor(values, dtype=torch.float64)) for values in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values: torch.Tensor) -> torch.Tensor:
    smaller = (values[:, None] > values).sum(1).double()
    equal = (values[:, None] == values).sum(1).double()
    return smaller + (equal - 1) / 2
