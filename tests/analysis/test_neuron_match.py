from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cosine_similarity

import sparsedict as sd
from sparsedict.analysis import _cosines, match_neurons
from sparsedict.sites import Neurons, Site

from ._models import HIDDEN, WIDTH, Foreign, autoencoder, distiller, noise


def neurons(gated: bool = False, n: int = HIDDEN) -> Neurons:
    gate = noise(n, WIDTH, seed=9) if gated else None
    return Neurons(noise(n, WIDTH, seed=7), noise(n, WIDTH, seed=8), torch.relu, gate=gate)


def table(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return cosine_similarity(rows[:, None].detach(), others[None], dim=-1)


def test_nearest_neurons_are_those_of_the_whole_table() -> None:
    student, own = distiller(), neurons()
    match = match_neurons(student, own)
    decoders, encoders = table(student.decoder, own.decoder), table(student.encoder, own.encoder)
    assert torch.allclose(match.decoder_cosine, decoders.amax(1), atol=1e-6)
    assert torch.equal(match.decoder_neuron, decoders.argmax(1))
    assert match.encoder_cosine is not None
    assert torch.allclose(match.encoder_cosine, encoders.amax(1), atol=1e-6)
    assert torch.equal(match.encoder_neuron, encoders.argmax(1))
    expected = encoders[torch.arange(20), match.decoder_neuron]
    assert torch.allclose(match.encoder_cosine_of_decoder_match, expected, atol=1e-6)
    assert torch.equal(match.agrees, decoders.argmax(1) == encoders.argmax(1))
    assert (match.n_latents, match.n_neurons) == (20, HIDDEN)


@pytest.mark.parametrize("n_at_once", [1, 30, 2**24])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, n_at_once: int) -> None:
    expected = match_neurons(distiller(), neurons())
    monkeypatch.setattr(_cosines, "N_COSINES", n_at_once)
    found = match_neurons(distiller(), neurons())
    assert torch.equal(found.decoder_neuron, expected.decoder_neuron)
    assert torch.allclose(found.encoder_cosine, expected.encoder_cosine)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(20)))
def test_matching_commutes_with_permutation_of_latents(order: list[int]) -> None:
    student, own = distiller(), neurons()
    match = match_neurons((student.encoder[order], student.decoder[order]), own)
    before = match_neurons(student, own)
    assert torch.allclose(match.decoder_cosine, before.decoder_cosine[order], atol=1e-6)
    assert torch.equal(match.decoder_neuron, before.decoder_neuron[order])
    assert torch.equal(match.encoder_neuron, before.encoder_neuron[order])


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(HIDDEN)))
def test_permuting_neurons_permutes_their_indices(order: list[int]) -> None:
    rows, own = noise(20, WIDTH), neurons().decoder
    before, after = match_neurons(rows, own), match_neurons(rows, own[order])
    assert torch.equal(torch.tensor(order)[after.decoder_neuron], before.decoder_neuron)


@given(scale=st.floats(1e-30, 1e30))
def test_matching_disregards_lengths(scale: float) -> None:
    rows, own = noise(20, WIDTH), neurons()
    match, before = match_neurons(rows * scale, own), match_neurons(rows, own)
    assert torch.equal(match.decoder_neuron, before.decoder_neuron)
    assert torch.allclose(match.decoder_cosine, before.decoder_cosine, atol=1e-5)


def test_cosines_are_signed() -> None:
    match = match_neurons(-torch.eye(WIDTH)[:1], torch.eye(WIDTH)[:1])
    assert match.decoder_cosine.item() == pytest.approx(-1)


def test_row_of_zeros_has_cosine_zero() -> None:
    assert match_neurons(torch.zeros(1, WIDTH), neurons()).decoder_cosine.item() == 0


def test_bfloat16_is_compared_in_float32() -> None:
    own = noise(30, WIDTH).bfloat16()
    assert torch.allclose(match_neurons(own, own).decoder_cosine, torch.ones(30), atol=1e-6)


def test_random_directions_stay_below_planted_copies() -> None:
    wide = noise(HIDDEN, 64)
    match = match_neurons(wide + 0.05 * noise(HIDDEN, 64, seed=1), wide)
    assert torch.equal(match.decoder_neuron, torch.arange(HIDDEN))
    assert match.null_decoder.shape == (HIDDEN,)
    assert match.null_decoder.max() < 0.8 < match.decoder_cosine.min()


def test_null_is_seeded_and_like_that_of_any_random_dictionary() -> None:
    own = noise(HIDDEN, WIDTH)
    one, same, other = (match_neurons(noise(3000, WIDTH), own, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.null_decoder, same.null_decoder)
    assert not torch.equal(one.null_decoder, other.null_decoder)
    assert one.null_decoder.mean().item() == pytest.approx(one.decoder_cosine.mean().item(), abs=0.01)


def test_distiller_made_of_neurons_matches_them_all(site: Site) -> None:
    match = match_neurons(sd.SparseDistiller.from_neurons(site.neurons), site.neurons)
    for cosines in (match.decoder_cosine, match.encoder_cosine, match.encoder_cosine_of_decoder_match):
        assert torch.allclose(cosines, torch.ones(HIDDEN), atol=1e-6)
    assert torch.equal(match.decoder_neuron, torch.arange(HIDDEN))
    assert match.agrees.all()


def test_rows_are_compared_in_the_space_they_live_in() -> None:
    own = neurons()
    outputs = match_neurons(autoencoder(), own)
    assert torch.equal(outputs.encoder_neuron, table(autoencoder().encoder, own.decoder).argmax(1))
    inputs = match_neurons(autoencoder(reads="inputs"), own)
    assert torch.equal(inputs.decoder_neuron, table(autoencoder().decoder, own.encoder).argmax(1))


def test_rows_among_neurons_are_compared_with_the_axes() -> None:
    coder = sd.SparseAutoencoder(HIDDEN, 9, activation=sd.ReLU(), decoder_norm=sd.Free(), reads="neurons")
    match = match_neurons(coder, neurons())
    expected = table(coder.decoder, torch.eye(HIDDEN))
    assert torch.allclose(match.decoder_cosine, expected.amax(1), atol=1e-6)
    assert torch.equal(match.decoder_neuron, expected.argmax(1))
    assert torch.allclose(
        match.encoder_cosine_of_decoder_match, table(coder.encoder, torch.eye(HIDDEN)).amax(1), atol=1e-6
    )


def test_gate_is_compared_beside_the_up_projection() -> None:
    own, student = neurons(gated=True), distiller()
    match = match_neurons(student, own)
    assert torch.equal(match.encoder_neuron, table(student.encoder, own.encoder).argmax(1))
    gates = table(student.encoder, own.gate)
    assert torch.equal(match.gate_neuron, gates.argmax(1))
    expected = gates[torch.arange(20), match.decoder_neuron]
    assert torch.allclose(match.gate_cosine_of_decoder_match, expected, atol=1e-6)
    assert match_neurons(student, neurons()).gate_cosine is None


def test_other_libraries_objects_and_linear_layers_are_read() -> None:
    student, own = distiller(), neurons()
    expected = match_neurons(student, own)

    class Layers(nn.Module):
        reads, writes = "inputs", "outputs"

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH)
            self.encoder.weight.data = student.encoder.data
            self.decoder.weight.data = student.decoder.data.T

    for found in (match_neurons(Foreign(student), own, reads="inputs"), match_neurons(Layers(), own)):
        assert torch.allclose(found.decoder_cosine, expected.decoder_cosine)
        assert torch.equal(found.encoder_neuron, expected.encoder_neuron)


def test_bare_decoders_have_no_encoder_to_compare() -> None:
    match = match_neurons(noise(5, WIDTH), neurons())
    assert match.encoder_cosine is match.encoder_neuron is match.agrees is match.null_encoder is None


def test_latents_per_neuron_counts_the_chosen() -> None:
    match = match_neurons(torch.eye(3)[[0, 0, 2]], torch.eye(3))
    assert match.latents_per_neuron(torch.tensor([True, True, False])).tolist() == [2, 0, 0]


def test_the_points_that_an_object_reads_must_be_known() -> None:
    with pytest.raises(ValueError, match="`reads` must name the point that a Foreign reads"):
        match_neurons(Foreign(distiller()), neurons())


def test_roles_that_contradict_raise() -> None:
    with pytest.raises(ValueError, match="`reads` must be 'inputs' for this SparseDistiller, got 'outputs'"):
        match_neurons(distiller(), neurons(), reads="outputs")


def test_other_widths_raise() -> None:
    with pytest.raises(ValueError, match=r"decoder rows of `dictionary`.* width 6 as the neurons, got \(5, 7\)"):
        match_neurons(noise(5, 7), neurons())


def test_objects_without_a_decoder_raise() -> None:
    with pytest.raises(TypeError, match="`neurons` must be a matrix of decoder rows"):
        match_neurons(noise(5, 7), object())
