"""Comparisons of decoder rows in any two dtypes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsedict.analysis import match_dictionaries, match_neurons, neighbours
from sparsedict.analysis.scores import stability
from sparsedict.sites import Neurons

from ._models import noise

DTYPES = (torch.bfloat16, torch.float32, torch.float64)


def _gated(rows: Tensor) -> Neurons:
    return Neurons(rows, rows, torch.relu, gate=rows)


def _neuron_cosines(rows: Tensor, others: Tensor) -> list[Tensor | None]:
    found = match_neurons((rows, rows), _gated(others))
    own = (found.decoder_cosine, found.encoder_cosine, found.gate_cosine, found.encoder_cosine_of_decoder_match)
    return [*own, found.null_decoder, found.null_encoder]


def _match_cosines(rows: Tensor, others: Tensor) -> list[Tensor | None]:
    found = match_dictionaries(rows, others)
    return [found.cosine_a, found.cosine_b, found.null_a, found.null_b]


@pytest.mark.parametrize(("dtype", "other"), list(product(DTYPES, DTYPES)), ids=str)
@pytest.mark.parametrize(
    "function",
    [
        _neuron_cosines,
        _match_cosines,
        lambda rows, others: [neighbours(rows, others, k=2).cosine],
        lambda rows, others: [stability(rows, [others]).columns["cosine"]],
    ],
    ids=["match_neurons", "match_dictionaries", "neighbours", "stability"],
)
def test_cosines_of_rows_in_different_dtypes(
    function: Callable[[Tensor, Tensor], list[Any]], dtype: torch.dtype, other: torch.dtype
) -> None:
    rows, others = noise(12, 8, seed=1).to(dtype), noise(10, 8, seed=2).to(other)
    for found, expected in zip(function(rows, others), function(rows.double(), others.double()), strict=True):
        torch.testing.assert_close(found.double(), expected.double(), atol=1e-6, rtol=0)


def test_float64_rows_keep_their_precision() -> None:
    rows, others = noise(12, 8, seed=1).double(), noise(10, 8, seed=2).double()
    expected = torch.nn.functional.cosine_similarity(rows[:, None], others[None], dim=-1).amax(1)
    torch.testing.assert_close(match_neurons(rows, others).decoder_cosine, expected, atol=1e-14, rtol=0)
