from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from sparsedict.analysis import LatentTypes, NeuronMatch, latent_types, match_neurons
from sparsedict.figures import Palette, decoder_similarity, encoder_similarity

from ._looks import check_looks, legend_of, stacked
from .conftest import N_DEAD, N_LATENTS, N_SIMULATORS


@pytest.mark.parametrize("draw", [decoder_similarity, encoder_similarity])
@pytest.mark.parametrize("typed", [False, True])
def test_looks(draw: object, typed: bool, match: NeuronMatch, types: LatentTypes) -> None:
    ax = draw(match, types if typed else None)
    check_looks(ax)
    assert "random directions" in legend_of(ax)


def test_every_latent_is_in_one_bar_and_every_type_has_its_colour(match: NeuronMatch, types: LatentTypes) -> None:
    ax = decoder_similarity(match, types)
    heights = {to_hex(part.get_facecolor()).upper(): n for part, n in stacked(ax)}
    n_sparse = N_LATENTS - N_SIMULATORS - N_DEAD
    assert heights == {Palette.SIMULATORS: N_SIMULATORS, Palette.SPARSE: n_sparse, Palette.DEAD: N_DEAD}
    assert f"sparse latents ({n_sparse})" in legend_of(ax)


def test_draws_on_the_axes_given(match: NeuronMatch) -> None:
    left, right = Figure().subplots(1, 2)
    assert decoder_similarity(match, ax=right) is right
    assert not left.patches
    assert right.patches


def test_no_global_state(match: NeuronMatch) -> None:
    decoder_similarity(match)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_rejects_a_match_without_encoders() -> None:
    match = match_neurons(torch.randn(4, 3), torch.randn(5, 3))
    with pytest.raises(ValueError, match=r"`match` must contain encoder cosines"):
        encoder_similarity(match)


def test_rejects_types_of_another_dictionary(match: NeuronMatch) -> None:
    with pytest.raises(ValueError, match=r"`types` must have the same 60 latents, got 3"):
        decoder_similarity(match, latent_types(torch.rand(3)))


@pytest.mark.as_installed
def test_objects_that_are_not_axes_raise(match: NeuronMatch) -> None:
    with pytest.raises(TypeError, match=r"`ax` must be matplotlib Axes, got Figure"):
        decoder_similarity(match, ax=Figure())  # pyright: ignore[reportArgumentType]


def test_a_narrow_null_does_not_set_the_scale(match: NeuronMatch, types: LatentTypes) -> None:
    null = torch.full_like(match.null_decoder, 0.31)
    ax = decoder_similarity(dataclasses.replace(match, null_decoder=null), types)
    check_looks(ax)
    tallest = float(torch.histc(match.decoder_cosine, 50, 0, 1).max())
    assert tallest <= ax.get_ylim()[1] < len(null)
    assert "random directions (cut off)" in legend_of(ax)
