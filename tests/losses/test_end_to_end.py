from __future__ import annotations

import pytest
import torch

import sparsedict as sd


@pytest.fixture(scope="module")
def site() -> sd.Site:
    return sd.Site(sd.zoo.load_model(), "transformer.h.2.mlp", exclude_tokens=[0])


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return sd.zoo.tokens("train", n_tokens=16 * 64)[:, :64]


def distiller(**parts: object) -> sd.SparseDistiller:
    own = {"activation": sd.TopK(4), "decoder_norm": sd.UnitNorm(), **parts}
    return sd.SparseDistiller(128, 128, 64, generator=torch.Generator().manual_seed(0), **own)  # pyright: ignore


def passed(dictionary: sd.Dictionary, site: sd.Site, tokens: torch.Tensor, **position: int) -> sd.ForwardPass:
    batch = site.capture(tokens[:2]).batch()
    return dictionary.train().forward_pass(batch.inputs, batch.outputs, **position)


def test_it_adds_the_divergence_of_the_predictions(site: sd.Site, tokens: torch.Tensor) -> None:
    dictionary = distiller()
    out = passed(dictionary, site, tokens, step=1, n_steps=10)
    loss = sd.EndToEnd(site, tokens, coefficient=3.0, n_sequences=2)
    rows = tokens[2:4]
    with torch.no_grad():
        original = site.logits(rows).log_softmax(-1)
        with site.replaced(dictionary):
            changed = site.logits(rows).log_softmax(-1)
    wanted = (original.exp() * (original - changed)).sum(-1).mean()
    torch.testing.assert_close(loss(out), sd.SquaredError()(out) + 3 * wanted)
    only = sd.EndToEnd(site, tokens, coefficient=1.0, n_sequences=2, reconstruction=None)
    torch.testing.assert_close(only(out), wanted)


def test_both_terms_have_the_same_size_by_default(site: sd.Site, tokens: torch.Tensor) -> None:
    out = passed(distiller(), site, tokens)
    torch.testing.assert_close(sd.EndToEnd(site, tokens)(out), 2 * sd.SquaredError()(out))


def test_before_its_begin_it_is_the_reconstruction_loss(site: sd.Site, tokens: torch.Tensor) -> None:
    loss = sd.EndToEnd(site, tokens, begin=0.5)
    before, after = (passed(distiller(), site, tokens, step=step, n_steps=10) for step in (4, 5))
    assert torch.equal(loss(before), sd.SquaredError()(before))
    assert loss(after) > sd.SquaredError()(after)


def test_the_gradient_is_the_slope_of_the_divergence_and_leaves_the_model_alone(
    site: sd.Site, tokens: torch.Tensor
) -> None:
    dictionary = distiller(activation=sd.ReLU()).train()
    out = passed(dictionary, site, tokens)
    loss = sd.EndToEnd(site, tokens, coefficient=1.0, n_sequences=2, reconstruction=None)
    flags = [parameter.requires_grad for parameter in site.model.parameters()]
    loss(out).backward()
    assert [parameter.requires_grad for parameter in site.model.parameters()] == flags
    assert all(parameter.grad is None for parameter in site.model.parameters())
    gradient = dictionary.decoder_bias.grad
    assert gradient is not None
    direction = gradient / gradient.norm()
    values = []
    for sign in (-1, 1):
        with torch.no_grad():
            dictionary.decoder_bias.add_(direction, alpha=sign * 1e-2)
            values.append(loss(passed(dictionary, site, tokens)))
            dictionary.decoder_bias.sub_(direction, alpha=sign * 1e-2)
    assert float((values[1] - values[0]) / 2e-2) == pytest.approx(float(gradient.norm()), rel=0.02)


@pytest.mark.parametrize("activation", [sd.TopK(8), sd.BatchTopK(8)])
def test_a_run_with_it_lowers_the_divergence(site: sd.Site, tokens: torch.Tensor, activation: sd.Activation) -> None:
    """Half of the run is on the squared error, as in a run that only ends with the divergence."""
    rows = tokens[:4]
    divergences = {}
    for name, loss in (("squared", sd.SquaredError()), ("both", sd.EndToEnd(site, rows, begin=0.5))):
        dictionary = distiller(activation=activation)
        stream = sd.ActivationStream(site, rows, batch_size=128, seed=0)
        sd.fit(dictionary, stream, n_tokens=48 * 128, loss=loss, progress=False)
        with torch.no_grad(), site.replaced(dictionary):
            changed = site.logits(rows)
        divergences[name] = float(sd.KL()(changed.flatten(0, 1), site.logits(rows).detach().flatten(0, 1)))
    assert divergences["both"] < 0.9 * divergences["squared"]


def test_several_layers_are_replaced_together(tokens: torch.Tensor) -> None:
    sites = sd.Sites(sd.zoo.load_model(), {str(i): f"transformer.h.{i}.mlp" for i in (1, 2)})
    dictionary = sd.CrossLayerDistiller(
        sites, 32, activation=sd.PerLayer(sd.TopK(4)), decoder_norm=sd.UnitNorm()
    ).train()
    loss = sd.EndToEnd(sites, tokens, n_sequences=2)
    loss.check(dictionary)
    batch = sites.capture(tokens[:2]).batch()
    out = dictionary.forward_pass(*dictionary.select(batch))
    torch.testing.assert_close(loss(out), 2 * sd.SquaredError()(out))


@pytest.mark.as_installed
def test_bad_arguments_are_named(site: sd.Site, tokens: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="`site` must be a Site or Sites, got str"):
        sd.EndToEnd("transformer.h.2.mlp", tokens)
    with pytest.raises(TypeError, match=r"`tokens` must be a tensor of token ids .*got torch.float32"):
        sd.EndToEnd(site, tokens.float())
    with pytest.raises(ValueError, match=r"`tokens` must be of shape \[n_rows, n_positions\], not empty, got \[64\]"):
        sd.EndToEnd(site, tokens[0])
    with pytest.raises(ValueError, match="`reconstruction` must be a loss if `coefficient` is None"):
        sd.EndToEnd(site, tokens, reconstruction=None)
    with pytest.raises(TypeError, match=r"`divergence` must be a Divergence such as sd\.KL\(\)"):
        sd.EndToEnd(site, tokens, divergence="kl")
    small = sd.SparseDistiller(8, 128, 64, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
    with pytest.raises(ValueError, match=r"`site` must have the points of the dictionary.*width 128, .*width 8"):
        sd.Trainee(small, loss=sd.EndToEnd(site, tokens))
