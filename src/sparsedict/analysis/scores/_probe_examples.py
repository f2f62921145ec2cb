"""Tokens on which probes are trained and tested, and the latents that they read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedict.analysis.scores._token_latents import TokenLatents
from sparsedict.seeds import generator

MIN_EXAMPLES = 20
"""Number of tokens with a label that each half must have."""
_PROBES = int.from_bytes(b"prob", "big")


@dataclass(frozen=True, eq=False)
class ProbeExamples:
    """Tokens of one label and of others: the positions of those to train on and of those to test on."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def first_half_mask(text: TokenLatents, seed: int) -> Tensor:
    first, _ = text.split(seed)
    mask = torch.zeros_like(text.kept)
    mask[first] = True
    return mask.flatten()


def frequent_labels(ids: Tensor, in_first: Tensor, max_labels: int) -> list[int]:
    """Returns the most frequent labels, the most frequent first."""
    n = int(ids.max()) + 1 if len(ids) else 0
    counts = torch.stack([torch.bincount(ids[half & (ids >= 0)], minlength=n) for half in (in_first, ~in_first)])
    n_known = counts.sum(1, keepdim=True)
    fits = ((counts >= MIN_EXAMPLES) & (n_known - counts >= MIN_EXAMPLES)).all(0)
    if not bool(fits.any()):
        raise ValueError(
            f"`labelling` must have a label on at least {MIN_EXAMPLES} tokens, and others on as many, in both halves "
            "of the text, got none. Record more text."
        )
    order = torch.argsort(counts.sum(0), descending=True, stable=True)
    return order[fits[order]][:max_labels].tolist()


def draw_probe_examples(ids: Tensor, value: int, in_first: Tensor, n: int, seed: int) -> ProbeExamples:
    random = generator(seed, _PROBES, value)
    parts = []
    for half in (in_first, ~in_first):
        classes = [(half & (ids >= 0) & (ids != value)).nonzero()[:, 0], (half & (ids == value)).nonzero()[:, 0]]
        size = min(n // 2, *map(len, classes))
        drawn = [own[torch.randperm(len(own), generator=random, device="cpu")[:size]] for own in classes]
        parts += [torch.cat(drawn), torch.arange(2, device="cpu").repeat_interleave(size)]
    return ProbeExamples(*parts)


def most_predictive(text: TokenLatents, ids: Tensor, value: int, in_first: Tensor, n: int) -> Tensor:
    """Returns the latents whose means with and without the label differ most, in units of standard deviation."""
    has, lacks = in_first & (ids == value), in_first & (ids >= 0) & (ids != value)
    weight = has.double() / has.sum() - lacks.double() / lacks.sum()
    known = (has | lacks).double() / (has | lacks).sum()
    values, owner = text.values.double(), text.owner
    sums = torch.zeros(3, text.n_latents, dtype=torch.float64, device="cpu")
    sums[0].index_add_(0, owner, values * weight[text.positions])
    sums[1].index_add_(0, owner, values * known[text.positions])
    sums[2].index_add_(0, owner, values.square() * known[text.positions])
    variance = sums[2] - sums[1].square()
    score = torch.where(variance > 0, sums[0].abs() / variance.clamp(min=1e-30).sqrt(), 0.0)
    return torch.argsort(score, descending=True, stable=True)[:n]
