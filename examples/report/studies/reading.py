"""The strongest examples of latents, and statistics of their tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from sparsedict import pages
from sparsedict.analysis import LatentRecords, TopExamples, collect, top_examples

from ..dictionary_spec import DictionarySpec
from ..experiment import Experiment

N_EXAMPLES = 10
MIN_EXAMPLES = N_EXAMPLES // 2
CONTEXT = 12


def examples_of(experiment: Experiment, spec: DictionarySpec, latents: Iterable[int]) -> dict[int, TopExamples]:
    """Returns the strongest examples of some latents on held-out text."""
    latents = list(latents)
    with experiment.phases("examples", f"looking for the strongest examples of {len(latents)} latents"):
        return top_examples(
            experiment.sites[spec.site],
            experiment.dictionary(spec),
            _tokens(experiment),
            latents=latents,
            n_examples=N_EXAMPLES,
            context=CONTEXT,
        )


def collected(experiment: Experiment, site: str, dictionaries: Mapping[str, Any]) -> dict[str, LatentRecords]:
    """Returns the records of all latents on held-out text, and writes their pages if the experiment has a folder."""
    tokens = _tokens(experiment)
    with experiment.phases("examples", f"collecting examples of the latents of {len(dictionaries)} dictionaries"):
        records = collect(
            experiment.sites[site], dictionaries, tokens, n_top=N_EXAMPLES, context=CONTEXT, progress=False
        )
    if experiment.pages is not None:
        with experiment.phases("pages", "writing the pages of all latents"):
            pages.write(
                experiment.pages,
                experiment.sites[site],
                dictionaries,
                records=records,
                tokenizer=experiment.strings,
                title=f"Latents of {site}, the first seed",
                progress=False,
            )
    return records


def _tokens(experiment: Experiment) -> torch.Tensor:
    """Returns the held-out text in which examples are searched."""
    return experiment.held_out_tokens[: math.ceil(experiment.setting.n_held_out / experiment.held_out_tokens.shape[1])]


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
