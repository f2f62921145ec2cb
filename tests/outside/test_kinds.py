"""Kinds written outside the package are trained, saved, loaded, evaluated and put into a model like our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.outside.kinds import Crosscoder, CrossLayer, EndToEnd, Nested
from tests.residual import sites_of_residual_mlps
from torch import Tensor, nn

import sparsedict as sd

D, CONTEXT, N_TOKENS = 6, 8, 6_000


@pytest.fixture(scope="module")
def sites() -> sd.Sites:
    return sites_of_residual_mlps(2, d=D)


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(20, (64, CONTEXT), generator=torch.Generator().manual_seed(1))


def options(activation: sd.Activation) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    return {"activation": activation, "decoder_norm": sd.UnitNorm(), "generator": generator}


KINDS = {
    "cross-layer": lambda: CrossLayer(2, D, 32, **options(sd.BatchTopK(6))),
    "crosscoder": lambda: Crosscoder(("0.outputs", "1.outputs"), 2 * D, 32, **options(sd.BatchTopK(6))),
}


Trained = dict[str, tuple[sd.Dictionary, sd.History]]


@pytest.fixture(scope="module")
def trained(sites: sd.Sites, tokens: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Each kind after training with checkpoints."""
    found: Trained = {}
    for kind, make in KINDS.items():
        dictionary = make()
        stream = sd.ActivationStream(sites, tokens, batch_size=64)
        folder = tmp_path_factory.mktemp("run")
        found[kind] = dictionary, sd.fit(dictionary, stream, n_tokens=N_TOKENS, progress=False, checkpoint=folder)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_dictionary_over_several_mlps_is_trained_saved_and_loaded(
    kind: str, sites: sd.Sites, tokens: Tensor, trained: Trained, tmp_path: Path
) -> None:
    dictionary, history = trained[kind]
    assert history.last.fvu < 0.25
    dictionary.save(tmp_path / "saved")
    loaded = sd.load(tmp_path / "saved", parts=[CrossLayer, Crosscoder])
    batch = sites.capture(tokens).batch()
    inputs, targets = loaded.select(batch)
    assert targets.shape == (tokens.numel(), 2 * D)
    for ours, theirs in zip(dictionary(inputs), loaded(inputs), strict=True):
        assert torch.equal(ours, theirs)
    assert sd.metrics.fvu(loaded(inputs).reconstruction, targets) < 0.25
    assert loaded.trained_on["site"] == ["1.mlp", "2.mlp"]


def test_training_notes_the_sites_that_a_dictionary_reads_and_writes(sites: sd.Sites, tokens: Tensor) -> None:
    dictionary = Crosscoder(("1.outputs",), D, 32, **options(sd.TopK(6)))
    sd.fit(dictionary, sd.ActivationStream(sites, tokens, batch_size=64), n_tokens=640, progress=False)
    assert dictionary.trained_on["site"] == "2.mlp"


@pytest.mark.parametrize("activation", [sd.TopK(6), sd.BatchTopK(6), sd.ReLU()], ids=repr)
def test_weights_between_unconnected_layers_stay_zero(
    activation: sd.Activation, sites: sd.Sites, tokens: Tensor
) -> None:
    dictionary = CrossLayer(2, D, 32, **options(activation))
    sd.fit(dictionary, sd.ActivationStream(sites, tokens, batch_size=64), n_tokens=640, progress=False)
    assert torch.equal(dictionary.encoder != 0, dictionary.read_columns)
    assert torch.equal(dictionary.decoder != 0, dictionary.written_columns)


def test_a_cross_layer_dictionary_runs_in_the_model_layer_by_layer(
    sites: sd.Sites, tokens: Tensor, trained: Trained
) -> None:
    dictionary, _ = trained["cross-layer"]
    model = sites["0"].model
    embedding, _, _, head = model
    with torch.no_grad():
        x = embedding(tokens)
        early = dictionary.reconstruct(dictionary.encode(torch.cat([x, x], -1)), torch.cat([x, x], -1))[..., :D]
        both = torch.cat([x, x + early], -1)
        late = dictionary.reconstruct(dictionary.encode(both), both)[..., D:]
        with sites.replaced(dictionary):
            torch.testing.assert_close(model(tokens), head(x + early + late))


@pytest.mark.parametrize("kind", KINDS)
def test_dictionaries_over_several_mlps_are_evaluated(
    kind: str, sites: sd.Sites, tokens: Tensor, trained: Trained
) -> None:
    dictionary, _ = trained[kind]
    found = sd.evaluate(sites, dictionary, tokens)
    batch = sites.capture(tokens).batch()
    inputs, targets = dictionary.select(batch)
    reconstruction = dictionary(inputs).reconstruction
    for index, name in enumerate(sites):
        columns = slice(index * D, (index + 1) * D)
        expected = sd.metrics.fvu(reconstruction[:, columns], targets[:, columns])
        assert found.sites[name].fvu == pytest.approx(expected, rel=1e-4)
    if kind == "cross-layer":
        assert found.losses is not None
        assert 0 < found.losses.kl < 0.01
    else:
        # Latents that read the last layer can't write to the first in the same forward pass.
        assert found.losses is None
        assert "must reach before" in str(found.note)


def test_a_cross_layer_dictionary_writes_to_its_own_layer_and_later_ones() -> None:
    dictionary = CrossLayer(2, D, 32, **options(sd.ReLU()))
    x = torch.randn(5, 2 * D)
    first, second = dictionary.encode(x).clone(), dictionary.encode(x).clone()
    first[:, 16:], second[:, :16] = 0, 0
    changed = torch.cat([x[:, :D], torch.randn(5, D)], dim=-1)
    assert torch.equal(dictionary.pre_activations(x)[:, :16], dictionary.pre_activations(changed)[:, :16])
    assert not torch.equal(dictionary.pre_activations(x)[:, 16:], dictionary.pre_activations(changed)[:, 16:])
    nothing = dictionary.decode(torch.zeros_like(first))
    assert torch.equal(dictionary.decode(second)[:, :D], nothing[:, :D])
    assert not torch.equal(dictionary.decode(first)[:, D:], nothing[:, D:])


def distiller() -> sd.SparseDistiller:
    return sd.SparseDistiller(D, D, 32, **options(sd.TopK(6)))


def test_a_nested_loss_orders_latents(sites: sd.Sites, tokens: Tensor) -> None:
    stream = sd.ActivationStream(sites["1"], tokens, batch_size=64)
    inputs, targets = (sites["1"].capture(tokens).batch().at(point) for point in ("inputs", "outputs"))
    errors = {}
    for name, loss in (("plain", sd.SquaredError()), ("nested", Nested((8, 16, 32)))):
        student = distiller()
        sd.fit(student, stream, n_tokens=N_TOKENS, loss=loss, progress=False)
        latents = student.encode(inputs) * (torch.arange(32) < 8)
        errors[name] = sd.metrics.fvu(student.reconstruct(latents, inputs), targets)
    assert errors["nested"] < 0.8 * errors["plain"]


def test_a_nested_loss_of_the_whole_width_is_the_squared_error() -> None:
    student, x = distiller().train(), torch.randn(9, D)
    out = student.forward_pass(x, x.cos())
    torch.testing.assert_close(Nested((32,))(out), sd.SquaredError()(out))


def test_an_end_to_end_loss_runs_the_rest_of_the_model(sites: sd.Sites, tokens: Tensor) -> None:
    site, student = sites["0"], distiller()
    stream = sd.ActivationStream(site, tokens, batch_size=64, mix="sequences")
    sd.fit(student, stream, n_tokens=N_TOKENS, progress=False)
    before = sd.evaluate(site, student, tokens)
    sd.fit(student, stream, n_tokens=N_TOKENS, loss=EndToEnd(site, CONTEXT), lr=1e-3, progress=False)
    after = sd.evaluate(site, student, tokens)
    assert before.losses is not None
    assert after.losses is not None
    assert after.losses.kl < 0.7 * before.losses.kl


def test_the_gradient_of_an_end_to_end_loss_is_that_of_the_replaced_model(sites: sd.Sites, tokens: Tensor) -> None:
    site, student = sites["0"], distiller().train()
    batch = site.capture(tokens[:4]).batch()
    loss = EndToEnd(site, CONTEXT)(student.forward_pass(*student.select(batch), batch=batch))
    loss.backward()
    ours = student.decoder.grad.clone()
    student.zero_grad()
    expected = site.logits(tokens[:4]).log_softmax(-1).detach()
    with site.replaced(student):
        predicted = site.logits(tokens[:4]).log_softmax(-1)
    nn.functional.kl_div(predicted, expected, reduction="sum", log_target=True).div(4 * CONTEXT).backward()
    torch.testing.assert_close(ours, student.decoder.grad, rtol=1e-4, atol=1e-7)
