from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import cases
import sparsedict as sd

WIDTHS = (3, 7)
TARGETS = torch.randn(9, cases.D_OUT, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def passed(kind: str, activation: str) -> sd.ForwardPass:
    dictionary = cases.make(kind, activation, "free").train()
    targets = torch.randn(9, dictionary.d_out, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return dictionary.forward_pass(cases.tokens(9), targets)


def dense(out: sd.ForwardPass) -> Tensor:
    latents = out.encoding.latents()
    return latents.to_dense() if isinstance(latents, sd.SparseLatents) else latents


def first(out: sd.ForwardPass, width: int) -> Tensor:
    """Returns a mask of the first latents of each layer."""
    sizes = out.dictionary.layer_sizes or (out.dictionary.n_latents,)
    return torch.cat([torch.arange(size) < width for size in sizes]).double()


def gradients(loss: Tensor, dictionary: sd.Dictionary) -> dict[str, Tensor]:
    named = dict(dictionary.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(named[name]) if gradient is None else gradient
        for name, gradient in zip(named, found, strict=True)
    }


@pytest.mark.parametrize(("kind", "activation"), cases.PAIRS)
@pytest.mark.parametrize("widths", [(3, 7), (5,), (2, 4, 12)])
def test_each_width_reconstructs_alone(kind: str, activation: str, widths: tuple[int, ...]) -> None:
    out = passed(kind, activation)
    if out.dictionary.layer_sizes:
        widths = tuple(width for width in widths if width <= max(out.dictionary.layer_sizes))
    loss = sd.Nested(widths)
    loss.check(out.dictionary)
    wanted = sd.SquaredError()(out)
    for width in (w for w in widths if w < max(out.dictionary.layer_sizes or (cases.N_LATENTS,))):
        inner = out.dictionary.reconstruct(dense(out) * first(out, width), out.inputs)
        wanted = wanted + (inner - out.targets).square().sum() / 9
    actual = loss(out)
    torch.testing.assert_close(actual, wanted)
    expected = gradients(wanted, out.dictionary)
    for name, gradient in gradients(actual, out.dictionary).items():
        torch.testing.assert_close(gradient, expected[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("activation", ["relu", "top_k", "batch_top_k", "jump_relu", "gated"])
def test_a_detached_inner_loss_trains_only_the_latents_that_the_width_before_lacks(activation: str) -> None:
    out = passed("distiller_bias_skip", activation)
    plain, detached = sd.Nested(WIDTHS), sd.Nested(WIDTHS, detached=True)
    torch.testing.assert_close(detached(out), plain(out))
    whole = gradients(sd.SquaredError()(out), out.dictionary)
    found = gradients(detached(out), out.dictionary)
    wanted = {name: gradient.clone() for name, gradient in whole.items()}
    for begin, end in ((0, 3), (3, 7)):
        inner = out.dictionary.reconstruct(dense(out) * first(out, end), out.inputs)
        own = gradients((inner - out.targets).square().sum() / 9, out.dictionary)
        for name in ("encoder", "encoder_bias", "decoder"):
            wanted[name][begin:end] += own[name][begin:end]
        if begin == 0:
            wanted["decoder_bias"] += own["decoder_bias"]
            wanted["skip"] += own["skip"]
    for name in ("encoder", "encoder_bias", "decoder", "decoder_bias", "skip"):
        torch.testing.assert_close(found[name], wanted[name], msg=lambda text, name=name: f"{name}: {text}")


def test_another_loss_measures_each_width() -> None:
    out = passed("cross_layer", "top_k")
    inner = out.dictionary.reconstruct(dense(out) * first(out, 3), out.inputs)
    wanted = sd.BalancedError()(out) + sd.BalancedError()(replace(out, reconstruction=inner))
    torch.testing.assert_close(sd.Nested([3], loss=sd.BalancedError())(out), wanted)


def test_the_first_latents_learn_to_reconstruct_alone() -> None:
    truth = sd.data.SyntheticFeatures(d=16, n_features=32, l0=3, seed=0)
    batch, _ = truth.sample(8_000, seed=1)
    errors = {}
    for name, loss in (("plain", sd.SquaredError()), ("nested", sd.Nested([8]))):
        sae = sd.SparseAutoencoder(
            16,
            48,
            activation=sd.BatchTopK(3),
            decoder_norm=sd.UnitNorm(),
            generator=torch.Generator().manual_seed(0),
        )
        sd.fit(sae, batch.outputs, n_tokens=40_000, batch_size=256, loss=loss, progress=False)
        with torch.no_grad():
            latents = sae.encode(batch.outputs)
            latents[:, 8:] = 0
            errors[name] = float((sae.reconstruct(latents, batch.outputs) - batch.outputs).square().sum())
    assert errors["nested"] < 0.9 * errors["plain"]


def test_repeated_widths_and_other_values_raise() -> None:
    with pytest.raises(ValueError, match=r"`widths` must be in ascending order, got \[4, 4\]"):
        sd.Nested([4, 4])
    with pytest.raises(ValueError, match=r"`widths\[0\]` must be at least 1, got 0"):
        sd.Nested([0, 4])
    with pytest.raises(ValueError, match="`widths` must be at most 12, the latents of the dictionary, got 13"):
        sd.Trainee(cases.make(), loss=sd.Nested([4, 13]))
    with pytest.raises(ValueError, match="`widths` must be at most 7, the latents of the layer, got 8"):
        sd.Trainee(cases.make("cross_layer"), loss=sd.Nested([8]))


@pytest.mark.as_installed
def test_wrong_types_raise() -> None:
    with pytest.raises(TypeError, match=r"`widths` must be a list of numbers of latents such as \[128, 512\], got 4"):
        sd.Nested(4)
    with pytest.raises(ValueError, match=r"`widths` must be a list of numbers .*, got none"):
        sd.Nested(())
    with pytest.raises(TypeError, match=r"`loss` must be a Loss such as sd\.SquaredError\(\), got Nested"):
        sd.Nested([4], loss=sd.Nested([2]))
