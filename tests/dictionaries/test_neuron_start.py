"""A distiller that starts from the MLP's own neurons."""

from __future__ import annotations

import copy

import pytest
import torch

import sparsedict as sd


@pytest.fixture(scope="module")
def site() -> sd.Site:
    return sd.Site(sd.zoo.load_model(), "transformer.h.1.mlp", exclude_tokens=[0])


@pytest.fixture(scope="module")
def batch(site: sd.Site) -> sd.Activations:
    return site.capture(sd.zoo.tokens("train", n_tokens=4_000)).batch()


def distiller(n_latents: int, **parts: object) -> sd.SparseDistiller:
    own = {"activation": sd.ReLU(), "decoder_norm": sd.UnitNorm(), **parts}
    return sd.SparseDistiller(128, 128, n_latents, generator=torch.Generator().manual_seed(0), **own)  # pyright: ignore


def error(dictionary: sd.Dictionary, batch: sd.Activations) -> float:
    with torch.no_grad():
        residual = dictionary.train()(batch.inputs).reconstruction - batch.outputs
    return float(residual.square().sum() / (batch.outputs - batch.outputs.mean(0)).square().sum())


def test_as_wide_as_the_mlp_it_computes_its_relu(site: sd.Site, batch: sd.Activations) -> None:
    dictionary = distiller(512)
    dictionary.initialise_from_neurons_(site.neurons, batch.inputs, batch.outputs)
    neurons = site.neurons
    pre = batch.inputs @ neurons.encoder.T + neurons.encoder_bias
    wanted = pre.relu() @ neurons.decoder
    found = dictionary.decode(dictionary.encode(batch.inputs)) - dictionary.decoder_bias
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    mean = dictionary(batch.inputs).reconstruction.mean(0)
    torch.testing.assert_close(mean, batch.outputs.mean(0), rtol=0, atol=1e-3)
    # GELU is negative below zero, so the error isn't zero.
    assert error(dictionary, batch) < 0.2


@pytest.mark.parametrize("activation", [sd.TopK(64), sd.BatchTopK(64)])
@pytest.mark.parametrize("options", [{}, {"input_bias": True, "skip": True}, {"input_norm": sd.InputStandardise()}])
def test_padded_to_the_width_neurons_and_other_latents_compete(
    site: sd.Site, batch: sd.Activations, activation: sd.Activation, options: dict[str, object]
) -> None:
    dictionary = distiller(1024, activation=activation, **options)
    plain = copy.deepcopy(dictionary)
    plain.initialise_(batch.inputs, batch.outputs)
    dictionary.initialise_from_neurons_(site.neurons, batch.inputs, batch.outputs)
    pre = dictionary.pre_activations(batch.inputs)
    torch.testing.assert_close(pre[:, :512].std(), pre[:, 512:].std(), rtol=1e-3, atol=0)
    torch.testing.assert_close(dictionary.decoder[512:], plain.decoder[512:])
    fired = (dictionary.train().encode(batch.inputs) != 0).any(0)
    assert float(fired[:512].float().mean()) > 0.8
    assert float(fired[512:].float().mean()) > 0.8


def test_with_fewer_latents_the_largest_neurons_are_used(site: sd.Site, batch: sd.Activations) -> None:
    dictionary = distiller(32)
    dictionary.initialise_from_neurons_(site.neurons, batch.inputs, batch.outputs)
    neurons = site.neurons
    size = neurons.encode(batch.inputs).relu().mean(0) * neurons.decoder.norm(dim=-1)
    rows = torch.nn.functional.normalize(neurons.decoder[size.topk(32).indices], dim=-1)
    torch.testing.assert_close(dictionary.decoder.detach(), rows)


def test_a_gated_mlp_is_approximated() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in ((40, 12), (40, 10), (40, 12))]
    neurons = sd.Neurons(weights[0], weights[1], torch.nn.functional.silu, gate=weights[2])
    x = torch.randn(4_000, 12, generator=generator) + 1
    y = neurons.decode(neurons.encode(x))
    dictionary = sd.SparseDistiller(12, 10, 40, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    dictionary.initialise_from_neurons_(neurons, x, y)
    residual = dictionary(x).reconstruction - y
    assert float(residual.square().sum().detach() / (y - y.mean(0)).square().sum()) < 1


def test_fit_goes_on_from_the_neurons(site: sd.Site, batch: sd.Activations) -> None:
    dictionary = distiller(600, activation=sd.TopK(16))
    dictionary.initialise_from_neurons_(site.neurons, batch.inputs, batch.outputs)
    before = dictionary.decoder.detach().clone()
    data = (batch.inputs, batch.outputs)
    sd.fit(dictionary, data, n_tokens=200, batch_size=100, lr=1e-9, progress=False)
    torch.testing.assert_close(dictionary.decoder.detach(), before, rtol=0, atol=1e-5)
    start = error(dictionary, batch)
    sd.fit(dictionary, data, n_tokens=20_000, batch_size=200, progress=False)
    assert error(dictionary, batch) < start


def test_frozen_weights_and_other_widths_raise_or_stay(site: sd.Site, batch: sd.Activations) -> None:
    other = sd.SparseDistiller(64, 128, 32, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    with pytest.raises(ValueError, match="`neurons` must have the widths of the distiller, 64 and 128, got 128"):
        other.initialise_from_neurons_(site.neurons, batch.inputs[:, :64], batch.outputs)
    dictionary = distiller(600)
    dictionary.decoder_bias.requires_grad_(False)
    dictionary.initialise_from_neurons_(site.neurons, batch.inputs, batch.outputs)
    assert not dictionary.decoder_bias.any()


@pytest.mark.as_installed
def test_bad_arguments_change_nothing(site: sd.Site, batch: sd.Activations) -> None:
    dictionary = distiller(32)
    before = copy.deepcopy(dictionary.state_dict())
    with pytest.raises(TypeError, match=r"`neurons` must be Neurons, such as `site.neurons`, got Site. Pass `site.neu"):
        dictionary.initialise_from_neurons_(site, batch.inputs, batch.outputs)
    with pytest.raises(TypeError, match=r"`neurons` must be Neurons.*got NoneType"):
        sd.SparseDistiller.from_neurons(None)
    for name, inputs, outputs in (
        ("inputs", batch.inputs * torch.nan, batch.outputs),
        ("targets", batch.inputs, batch.outputs * torch.inf),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be finite"):
            dictionary.initialise_from_neurons_(site.neurons, inputs, outputs)
    assert all(torch.equal(value, before[name]) for name, value in dictionary.state_dict().items())
