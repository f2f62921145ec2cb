from __future__ import annotations

import pytest
import torch

import sparsedict as sd
from sparsedict import metrics
from sparsedict.analysis import latent_types, match_neurons, simulator_correlation
from sparsedict.data import ActivationStream
from sparsedict.sites import Site

from ._models import HIDDEN, distiller, noise, tokens


def test_correlations_are_those_of_the_columns(site: Site) -> None:
    student, batch = distiller(), site.capture(tokens(), neurons=True).batch()
    match = match_neurons(student, site.neurons)
    found = simulator_correlation(student, match, batch)
    expected = metrics.correlation(student.encode(batch.inputs), batch.neurons[:, match.decoder_neuron])
    assert torch.allclose(found.correlation, expected, atol=1e-6, equal_nan=True)
    assert found.latents.tolist() == list(range(20))
    assert found.n_tokens == batch.n_tokens


def test_copies_of_neurons_correlate_fully(site: Site) -> None:
    student = sd.SparseDistiller.from_neurons(site.neurons)
    match = match_neurons(student, site.neurons)
    stream = ActivationStream(site, tokens(40), neurons=True)
    found = simulator_correlation(student, match, stream, latents=latent_types(match).simulators)
    active = ~found.correlation.isnan()
    assert active.sum() > HIDDEN / 2
    assert torch.allclose(found.correlation[active], torch.ones(int(active.sum()), dtype=torch.float64))


def test_neurons_are_computed_where_they_were_not_captured(site: Site) -> None:
    student = distiller()
    match, mask = match_neurons(student, site.neurons), torch.arange(20) > 15
    captured = simulator_correlation(student, match, ActivationStream(site, tokens(), neurons=True), latents=mask)
    computed = simulator_correlation(student, match, site.capture(tokens()).batch(), latents=mask, neurons=site.neurons)
    assert captured.latents.tolist() == [16, 17, 18, 19]
    assert torch.equal(captured.neurons, match.decoder_neuron[16:])
    assert torch.allclose(captured.correlation, computed.correlation, equal_nan=True)


def test_dead_latents_have_no_correlation(site: Site) -> None:
    student = distiller()
    with torch.no_grad():
        student.encoder_bias[0] = -100
    match = match_neurons(student, site.neurons)
    found = simulator_correlation(student, match, noise(30, 6), neurons=site.neurons)
    assert found.correlation[0].isnan()


def test_neurons_must_come_from_somewhere(site: Site) -> None:
    match = match_neurons(distiller(), site.neurons)
    with pytest.raises(ValueError, match="`data` must contain the activations of the neurons"):
        simulator_correlation(distiller(), match, ActivationStream(site, tokens()))
    with pytest.raises(ValueError, match="`latents` must be a mask of at least one"):
        simulator_correlation(distiller(), match, noise(3, 6), latents=torch.zeros(20, dtype=torch.bool))
