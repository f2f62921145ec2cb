"""Measurements of latents over several layers find planted duplicates, merged pairs and latents of later layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import sparsedict as sd
from examples.report.layer_latents import LEAST_FIRINGS, LiveLatents, duplicates, merged, written_later

N_TOKENS, D = 400, 32


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def live(by_layer: list[Tensor], rows: list[Tensor]) -> LiveLatents:
    """Latents with given activations ``[n_tokens, n]`` and decoder rows ``[n, n_targets, d]``."""
    centred = [normalize(own - own.mean(0), dim=0) for own in by_layer]
    frequency = [(own != 0).float().mean(0) for own in by_layer]
    return LiveLatents(centred, rows, frequency, sum(own.shape[1] for own in by_layer))


@pytest.fixture
def activations() -> list[Tensor]:
    """Activations of 8 latents in each of two layers. The first two of the second layer repeat two of the first."""
    first, second = (random(N_TOKENS, 8, seed=seed).sub(0.5).relu() for seed in (0, 1))
    second[:, :2] = 3 * first[:, :2]
    return [first, second]


def test_duplicates_are_latents_with_equal_activations(activations: list[Tensor]) -> None:
    rows = [random(8, 1, D, seed=seed) for seed in (2, 3)]
    rows[1][7] = -2 * rows[0][5]
    rows[1][6] = 2 * rows[0][4]
    found = duplicates(live(activations, rows))
    assert found["duplicates"] == 4 / 16  # two latents in each layer
    assert found["near copies"] == 2 / 16  # cosines are signed
    assert found["duplicates, other tokens"] == found["near copies, permuted"] == 0


def test_a_single_layer_has_no_duplicates(activations: list[Tensor]) -> None:
    found = duplicates(live(activations[:1], [random(8, 1, D, seed=2)]))
    assert set(found.values()) == {0.0}


def test_a_pair_is_merged_if_one_latent_writes_both_rows(activations: list[Tensor]) -> None:
    rows = [random(8, 1, D, seed=seed) for seed in (2, 3)]
    per_layer = live(activations, rows)
    # Latent 0 of the cross-layer dictionary writes both rows of the first pair. Latent 1 is active with the second
    # pair, but only writes the row of the first layer.
    written = random(8, 2, D, seed=4)
    written[0] = torch.stack([rows[0][0, 0], rows[1][0, 0]])
    written[1, 0] = rows[0][1, 0]
    others = random(N_TOKENS, 8, seed=5).relu()
    cross = live([activations[0], others], [written, random(8, 1, D, seed=6)])
    assert merged(per_layer, cross) == {"pairs": 2, "merged": 1, "merged, other latent": 0}


def test_shares_of_later_layers_are_of_squared_norms(activations: list[Tensor]) -> None:
    rows = torch.zeros(8, 2, D)
    rows[:, 0, 0] = 1.0
    rows[:3, 1, 0] = 1.1
    found = written_later(live(activations, [rows, random(8, 1, D, seed=3)]))
    assert found["later"] == pytest.approx(3 / 8)
    assert 0 < found["later, random rows"] < 1


def test_rare_latents_are_not_counted() -> None:
    dictionary = sd.CrossLayerDistiller(
        {"0": 4, "1": 4},
        4,
        activation=sd.ReLU(),
        decoder_norm=sd.UnitNorm(),
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        for block in dictionary.blocks():
            block.encoder.copy_(torch.eye(4))
    inputs = torch.zeros(50, 4)
    inputs[:LEAST_FIRINGS, 0], inputs[: LEAST_FIRINGS - 1, 1] = 1.0, 1.0
    batch = sd.Activations({f"{layer}.{role}": inputs for layer in (0, 1) for role in ("inputs", "outputs")})
    latents = LiveLatents.measure(dictionary, batch)
    assert [len(rows) for rows in latents.rows] == [1, 1]
    assert [rows.shape[1] for rows in latents.rows] == [2, 1]
    assert latents.shares() == {"live": 2 / 8}
