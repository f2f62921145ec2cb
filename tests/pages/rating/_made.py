"""Rating sets without a model."""

from __future__ import annotations

import torch

from sparsedict.analysis import Example, TopExamples
from sparsedict.pages.rating import RatingSet, rating_set

HOSTILE = [
    "<script>window.broken=1</script>",
    "</script><img src=x onerror=window.broken=1>",
    "&amp;",
    "\"quoted'",
    "\n",
    "a\N{ZERO WIDTH SPACE}b",
    "\N{HEBREW LETTER ALEF}\N{RIGHT-TO-LEFT OVERRIDE}",
    "\ud800",
    "\N{REPLACEMENT CHARACTER}",
    "<!--",
    "plain",
    " the",
]


def strings(ids):
    return [HOSTILE[i % len(HOSTILE)] for i in ids]


def top(latent: int, n: int, scale: float = 1.0, density: float = 0.2) -> TopExamples:
    """A share of the tokens of its examples has activations of both signs. The largest one is at index 5."""
    examples = []
    for i in range(n):
        values = 0.5 * scale * torch.linspace(-1, 1, 12)
        values[torch.arange(12) >= round(12 * density)] = 0.0
        values[5] = scale * (n - i)
        examples.append(Example((torch.arange(12) + latent) % 12, values, 5, i, 5))
    return TopExamples(latent, tuple(examples), 1000)


def examples() -> dict[str, dict[int, TopExamples]]:
    return {
        "student-secret": {i: top(i, 8 if i != 3 else 2) for i in range(12)},
        "sae-secret": {i: top(i, 8, 37.0) for i in range(100, 106)},
    }


KINDS = {"student-secret": ["simulator-secret"] * 6 + ["sparse-secret"] * 5 + [""]}


def made_set(**options) -> RatingSet:
    return rating_set(examples(), **{"kinds": KINDS, "strings": strings, "n_per_kind": 4, **options})
