"""Ablation, clamping and steering of latents in a running model."""

from __future__ import annotations

import pytest
import torch

import sparsedict as sd
from sparsedict.analysis import latent_means, latent_types, match_neurons
from sparsedict.data import ActivationStream
from sparsedict.sites import Constant, Site

from ._models import HIDDEN, autoencoder, distiller, tokens


@pytest.mark.parametrize("make", [distiller, autoencoder])
@torch.no_grad()
def test_doing_nothing_with_the_error_kept_is_the_identity(site: Site, make) -> None:
    base = site.logits(tokens())
    nothing = sd.Ablation(torch.zeros(20, dtype=torch.bool))
    for change in (None, nothing, sd.Clamp({}), sd.Steer({3: 0.0})):
        with site.replaced(make(), intervention=change, error_term=True):
            assert torch.equal(site.logits(tokens()), base)


@torch.no_grad()
def test_steering_moves_the_output_along_the_decoder_row(site: Site) -> None:
    dictionary, seen = autoencoder(), site.capture(tokens())
    with site.replaced(dictionary, intervention=sd.Steer({3: 2.5}), error_term=True):
        moved = site.capture(tokens()).outputs - seen.outputs
    assert torch.allclose(moved[seen.mask], (2.5 * dictionary.decoder[3]).expand_as(moved[seen.mask]), atol=1e-5)
    assert torch.equal(moved[~seen.mask], torch.zeros_like(moved[~seen.mask]))


@torch.no_grad()
def test_clamping_sets_the_latent_and_keeps_the_rest(site: Site) -> None:
    dictionary, seen = distiller(), site.capture(tokens())
    latent = dictionary.encode(seen.inputs)[..., 3]
    with site.replaced(dictionary, intervention=sd.Clamp({3: 4.0}), error_term=True):
        moved = site.capture(tokens()).outputs - seen.outputs
    expected = (4.0 - latent)[..., None] * dictionary.decoder[3]
    assert torch.allclose(moved[seen.mask], expected[seen.mask], atol=1e-5)


@torch.no_grad()
def test_ablating_all_simulators_of_the_neurons_leaves_the_mean(site: Site) -> None:
    student = sd.SparseDistiller.from_neurons(site.neurons)
    kinds = latent_types(match_neurons(student, site.neurons))
    assert kinds.n_simulators == HIDDEN
    means = latent_means(student, ActivationStream(site, tokens()))
    with site.replaced(student, intervention=sd.Ablation(kinds.simulators, means)):
        ablated = site.logits(tokens())
    with site.replaced(Constant(site.capture(tokens()).batch().outputs.mean(0))):
        assert torch.allclose(site.logits(tokens()), ablated, atol=1e-4)


def test_latents_that_do_not_exist_raise(site: Site) -> None:
    with (
        pytest.raises(IndexError, match="`latent` must lie in"),
        site.replaced(distiller(), intervention=sd.Clamp({20: 1.0})),
    ):
        site.logits(tokens())
