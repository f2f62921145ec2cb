from __future__ import annotations

import pytest
import torch

from sparsedict.analysis import FiringFrequencies, latent_types, match_neurons
from sparsedict.pages import latent_cards

from ._made import example, top


def test_cards_combine_the_measurements_of_each_latent() -> None:
    match = match_neurons(torch.eye(3)[[2, 0]], torch.eye(3))
    cards = latent_cards(
        {1: top(1, example([4], [2.5]))},
        firing=FiringFrequencies(torch.tensor([0, 25]), 100),
        match=match,
        types=latent_types(match),
    )
    (card,) = cards
    assert (card.latent, card.frequency, card.n_tokens, card.kind, card.neuron) == (1, 0.25, 100, "simulator", 0)
    assert card.cosine == pytest.approx(1.0)
    assert card.max == 2.5


def test_a_dead_latent_is_of_no_other_kind() -> None:
    types = latent_types(torch.tensor([0.9, 0.9, 0.1, 0.1]), dead=torch.tensor([False, True, False, True]))
    cards = latent_cards({latent: top(latent) for latent in range(4)}, types=types)
    assert [card.kind for card in cards] == ["simulator", "never fired", "sparse latent", "never fired"]


def test_unknown_values_are_none() -> None:
    (card,) = latent_cards({0: top(0)})
    assert (card.frequency, card.kind, card.neuron, card.cosine, card.max) == (None, None, None, None, 0.0)
