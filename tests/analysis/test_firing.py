from __future__ import annotations

import pytest
import torch

import sparsedict as sd
from sparsedict import adapters
from sparsedict.analysis import dead_latents, firing_frequencies, latent_means
from sparsedict.data import ActivationStream
from sparsedict.sites import Site

from ._models import WIDTH, Foreign, autoencoder, distiller, noise, tokens


@pytest.mark.parametrize("activation", [sd.ReLU(), sd.GELU(), sd.TopK(3), sd.AbsTopK(3), sd.JumpReLU()])
def test_counts_are_those_of_all_latents_at_once(activation: sd.Activation) -> None:
    student, x = distiller(activation=activation), noise(100, WIDTH)
    frequencies = firing_frequencies(student, x)
    assert frequencies.n_tokens == 100
    assert torch.equal(frequencies.counts, (student.encode(x) != 0).sum(0))
    assert torch.equal(firing_frequencies(student, x, above=0.1).counts, (student.encode(x) > 0.1).sum(0))
    assert torch.allclose(latent_means(student, x), student.encode(x).mean(0), atol=1e-6)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    student, x = distiller(), noise(100, WIDTH)
    expected = firing_frequencies(student, x).counts, latent_means(student, x)
    monkeypatch.setattr(adapters, "N_DENSE", 7 * 20)
    assert torch.equal(firing_frequencies(student, x).counts, expected[0])
    assert torch.allclose(latent_means(student, x), expected[1])


def test_every_form_of_data_gives_the_same(site: Site) -> None:
    student, text = distiller(), tokens()
    batch = site.capture(text).batch()
    expected = firing_frequencies(student, batch.inputs)
    forms = (batch, (batch.inputs, batch.outputs), [batch, batch], (b for b in [batch]), ActivationStream(site, text))
    for n, form in zip((1, 1, 2, 1, 1), forms, strict=True):
        found = firing_frequencies(student, form)
        assert found.n_tokens == n * batch.n_tokens
        assert torch.equal(found.counts, n * expected.counts)


def test_autoencoder_reads_the_outputs(site: Site) -> None:
    coder, batch = autoencoder(), site.capture(tokens()).batch()
    assert torch.equal(firing_frequencies(coder, batch).counts, firing_frequencies(coder, batch.outputs).counts)
    assert torch.allclose(latent_means(coder, batch), latent_means(coder, batch.outputs))


def test_n_tokens_is_kept_to_exactly() -> None:
    batches = [noise(7, WIDTH), noise(7, WIDTH, seed=1)]
    found = firing_frequencies(distiller(), batches, n_tokens=10)
    assert found.n_tokens == 10
    expected = (distiller().encode(torch.cat(batches)[:10]) > 0).sum(0)
    assert torch.equal(found.counts, expected)


def test_frequency_of_a_dead_latent_is_zero_and_its_logarithm_minus_infinity() -> None:
    student = distiller()
    with torch.no_grad():
        student.encoder_bias[:3] = torch.tensor([-100.0, 100.0, -100.0])
    frequencies = firing_frequencies(student, noise(50, WIDTH))
    assert frequencies.frequency[:3].tolist() == [0, 1, 0]
    assert frequencies.log10[:3].tolist() == [-torch.inf, 0, -torch.inf]
    dead = dead_latents(student, noise(50, WIDTH))
    assert dead.mask[:3].tolist() == [True, False, True]
    assert torch.equal(dead.mask, frequencies.dead.mask)
    assert dead.share == dead.n_dead / 20
    assert "50 tokens" in str(dead)


def test_dictionary_in_training_is_measured_as_in_use() -> None:
    student = distiller(activation=sd.JumpReLU())
    expected = latent_means(student, noise(20, WIDTH))
    student.train()
    assert torch.equal(latent_means(student, noise(20, WIDTH)), expected)
    assert student.training
    assert not latent_means(student, noise(20, WIDTH)).requires_grad


def test_other_libraries_objects_serve(site: Site) -> None:
    student = distiller()
    batch = site.capture(tokens()).batch()
    expected = firing_frequencies(student, batch)
    assert torch.equal(firing_frequencies(Foreign(student), batch, reads="inputs").counts, expected.counts)
    assert torch.equal(firing_frequencies(Foreign(student), batch.inputs).counts, expected.counts)
    with pytest.raises(ValueError, match="`reads` must name the point that a Foreign reads"):
        firing_frequencies(Foreign(student), batch)


def test_activations_take_the_dictionarys_precision() -> None:
    student = distiller().double()
    assert latent_means(student, noise(5, WIDTH)).dtype == torch.float64


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(0, WIDTH), "at least one token"),
        (torch.zeros(4, WIDTH, dtype=torch.int64), "floating-point activations"),
        (torch.full((4, WIDTH), torch.nan), "must be finite"),
        (noise(4, WIDTH + 1), "last dimension of `x` must be 6"),
        ({"a": noise(4, WIDTH), "b": noise(4, WIDTH)}, "must be of one site, got 'a', 'b'"),
        ("text", "must be an ActivationStream"),
        ([], "at least one batch"),
    ],
)
def test_invalid_data_raises_errors(data: object, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        firing_frequencies(distiller(), data)


def test_objects_that_cannot_encode_raise() -> None:
    with pytest.raises(TypeError, match="which has no `encode`"):
        firing_frequencies(object(), noise(4, WIDTH))
