from __future__ import annotations

import pytest
import torch

from sparsedict.analysis import FiringFrequencies, LatentTypes, latent_types
from sparsedict.figures import firing_frequency

from ._looks import check_looks, legend_of, stacked
from .conftest import N_DEAD


@pytest.mark.parametrize("typed", [False, True])
def test_looks(typed: bool, firing: FiringFrequencies, types: LatentTypes) -> None:
    ax = firing_frequency(firing, types if typed else None)
    check_looks(ax)
    assert "1,000 tokens" in ax.get_xlabel()


def test_the_dead_stand_apart_with_their_number(firing: FiringFrequencies, types: LatentTypes) -> None:
    ax = firing_frequency(firing, types)
    assert any(text.get_text().startswith(str(N_DEAD)) for text in ax.texts)
    assert f"never fired ({N_DEAD})" in legend_of(ax)
    assert "never" in [label.get_text() for label in ax.get_xticklabels()]


def test_a_spike_that_would_hide_the_rest_is_cut_with_a_note() -> None:
    firing = FiringFrequencies(torch.cat([torch.zeros(500, dtype=torch.int64), torch.arange(1, 50)]), 100)
    ax = firing_frequency(firing)
    assert any(text.get_text() == "500 (bar cut)" for text in ax.texts)
    assert ax.get_ylim()[1] < 100
    check_looks(ax)


def test_latents_that_are_dead_on_other_tokens_alone_are_drawn_too() -> None:
    firing = FiringFrequencies(torch.tensor([0, 5, 10, 20, 40]), 100)
    types = latent_types(torch.tensor([0.9, 0.9, 0.9, 0.1, 0.1]), dead=torch.tensor([False, True, False, False, False]))
    ax = firing_frequency(firing, types)
    assert set(legend_of(ax)) >= {"simulators (1)", "sparse latents (2)", "never fired on other tokens (1)"}
    assert [n for _, n in stacked(ax)] == [1, 2, 1]


def test_without_dead_latents_there_is_no_spike() -> None:
    ax = firing_frequency(FiringFrequencies(torch.arange(1, 50), 100))
    assert "never" not in [label.get_text() for label in ax.get_xticklabels()]


def test_all_dead_is_drawn_too() -> None:
    check_looks(firing_frequency(FiringFrequencies(torch.zeros(9, dtype=torch.int64), 100)))


def test_rejects_types_of_another_dictionary(firing: FiringFrequencies) -> None:
    with pytest.raises(ValueError, match=r"`types` must have the same"):
        firing_frequency(firing, latent_types(torch.rand(3)))
