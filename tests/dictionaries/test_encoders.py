"""Encoders: the affine one of the base class, and those that kinds of one's own put in its place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import cases
from torch import Tensor, nn

import sparsedict as sd
from sparsedict.kernels import affine_at
from sparsedict.latents import Support

D, N_LATENTS = 6, 12
PARTS: dict[str, Any] = {"activation": sd.TopK(3), "decoder_norm": sd.UnitNorm()}


class Plain(sd.Dictionary):
    """Overrides nothing."""

    reads = writes = "outputs"


class Bilinear(sd.Dictionary):
    """Multiplies two affine maps of the input, and says how to do so at some entries."""

    reads, writes = "inputs", "outputs"

    def __init__(self, d_in: int, d_out: int, n_latents: int, **parts: Any) -> None:
        super().__init__(d_in, d_out, n_latents, **parts)
        self.gate = nn.Parameter(torch.randn(n_latents, d_in) / d_in**0.5)
        self.gate_bias = nn.Parameter(torch.ones(n_latents))
        self.n_dense_gradients = 0

    def pre_activations(self, x: Tensor) -> Tensor:
        pre = (x @ self.encoder.T + self.encoder_bias) * (x @ self.gate.T + self.gate_bias)
        if pre.requires_grad:
            pre.register_hook(self._count)
        return pre

    def _count(self, gradient: Tensor) -> None:
        self.n_dense_gradients += 1

    def pre_activations_at(self, x: Tensor, support: Support, known: Tensor | None = None) -> Tensor:
        encoded = affine_at(x, self.encoder, self.encoder_bias, support)
        return encoded * affine_at(x, self.gate, self.gate_bias, support)


class DenseBilinear(Bilinear):
    """The same encoder with another bias, trained through all pre-activations."""

    def pre_activations(self, x: Tensor) -> Tensor:
        return super().pre_activations(x) + 0.1


class SwitchedDistiller(sd.SparseDistiller):
    """Takes another encoder, which the distiller's own entries don't fit."""

    def pre_activations(self, x: Tensor) -> Tensor:
        return super().pre_activations(x) * (x @ self.encoder.T).tanh()


class ScaledDistiller(sd.SparseDistiller):
    """Learns more of the encoder's input than an offset."""

    def __init__(self, *widths: int, **parts: Any) -> None:
        super().__init__(*widths, **parts)
        self.scale = nn.Parameter(torch.full((widths[0],), 1.5))

    def encoder_inputs(self, x: Tensor) -> Tensor:
        return super().encoder_inputs(x) * self.scale


class Scaling:
    """As a class beside the dictionary."""

    def encoder_inputs(self, x: Tensor) -> Tensor:
        return super().encoder_inputs(x) * (1 + self.input_bias)  # pyright: ignore[reportAttributeAccessIssue]


class MixedDistiller(Scaling, sd.SparseDistiller):
    pass


KINDS: dict[str, sd.Dictionary] = {
    "plain": Plain(D, D, N_LATENTS, **PARTS),
    "bilinear": Bilinear(D, 5, N_LATENTS, **PARTS),
    "dense bilinear": DenseBilinear(D, 5, N_LATENTS, **PARTS),
    "switched": SwitchedDistiller(D, 5, N_LATENTS, input_bias=True, **PARTS),
    "scaled": ScaledDistiller(D, 5, N_LATENTS, input_bias=True, **PARTS),
    "mixed": MixedDistiller(D, 5, N_LATENTS, input_bias=True, **PARTS),
}
AFFINE = {"plain", "scaled", "mixed"}


def made(kind: str, activation: sd.Activation) -> sd.Dictionary:
    generator = torch.Generator().manual_seed(3)
    dictionary = KINDS[kind].with_activation(activation).double().train()
    with torch.no_grad():
        for weight in dictionary.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return dictionary


def gradients(value: Tensor, dictionary: sd.Dictionary, x: Tensor) -> dict[str, Tensor | None]:
    named = {"x": x, **dict(dictionary.named_parameters())} if x.requires_grad else dict(dictionary.named_parameters())
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))


def assert_equal_gradients(actual: dict[str, Tensor | None], wanted: dict[str, Tensor | None]) -> None:
    for name, gradient in wanted.items():
        mine = actual[name]
        if gradient is None or mine is None:
            assert all(g is None or not g.any() for g in (gradient, mine)), name
        else:
            torch.testing.assert_close(mine, gradient, msg=lambda message, name=name: f"{name}: {message}")


@pytest.mark.parametrize("kind", [*cases.KINDS, *KINDS])
@pytest.mark.parametrize(("needs_x", "is_known"), [(False, False), (True, True)])
def test_pre_activations_at_entries_are_those_of_all(kind: str, needs_x: bool, is_known: bool) -> None:
    dictionary = made(kind, sd.TopK(3)) if kind in KINDS else cases.make(kind, "relu")
    x = cases.tokens(7).requires_grad_(needs_x)
    support = Support.from_mask(torch.rand(7, N_LATENTS, generator=torch.Generator().manual_seed(0)) < 0.3)
    all_of_them = dictionary.pre_activations(x)[support.tokens, support.latents]
    known = dictionary.pre_activations(x)[support.tokens, support.latents] if is_known else None
    entries = dictionary.pre_activations_at(x, support, known)
    torch.testing.assert_close(entries, all_of_them)
    mix = torch.randn(len(entries), dtype=torch.float64)
    actual = gradients((entries * mix).sum(), dictionary, x)
    assert_equal_gradients(actual, gradients((all_of_them * mix).sum(), dictionary, x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", [sd.TopK(3), sd.ReLU(), sd.BatchTopK(2)], ids=lambda part: type(part).__name__)
@pytest.mark.parametrize("dense_share", [0.0, 1.0])
def test_a_training_step_has_the_gradient_of_dense_autograd(
    kind: str, activation: sd.Activation, dense_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsedict.dictionaries._encode.DENSE_SHARE", dense_share)
    dictionary = made(kind, activation)
    x = cases.tokens(9)
    targets = torch.ones(9, dictionary.d_out, dtype=torch.float64)
    out = dictionary.forward_pass(x, targets)
    actual = gradients(sd.SquaredError()(out), dictionary, x)
    pre = dictionary.pre_activations(x)
    mask = torch.ones_like(pre)
    if out.support is not None:
        mask = torch.zeros_like(pre).index_put((out.support.tokens, out.support.latents), torch.ones(()).double())
    latents = activation.values(pre, dictionary.activation_state.entries()) * mask
    torch.testing.assert_close(out.reconstruction, dictionary.reconstruct(latents, x))
    wanted = gradients((dictionary.reconstruct(latents, x) - targets).square().sum(-1).mean(), dictionary, x)
    assert_equal_gradients(actual, wanted)


@pytest.mark.parametrize("kind", ["bilinear", "dense bilinear"])
def test_an_encoder_that_says_how_trains_sparsely(kind: str) -> None:
    dictionary = made(kind, sd.TopK(3))
    assert isinstance(dictionary, Bilinear)
    x = cases.tokens(9)
    loss = sd.SquaredError()(dictionary.forward_pass(x, torch.ones(9, 5, dtype=torch.float64)))
    loss.backward()
    # The second kind overrides `pre_activations` alone, so its gradient is dense.
    assert dictionary.n_dense_gradients == (0 if kind == "bilinear" else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_overridden_methods_decide_whether_an_encoder_is_affine(kind: str) -> None:
    dictionary = made(kind, sd.TopK(3))
    assert dictionary.has_affine_encoder == (kind in AFFINE)
    x = cases.tokens(9)
    affine = dictionary.encoder_inputs(x) @ dictionary.encoder.T + dictionary.encoder_bias
    assert torch.allclose(affine, dictionary.pre_activations(x)) == (kind in AFFINE)


def test_a_kind_may_say_so_itself() -> None:
    class Traced(sd.SparseDistiller):
        has_affine_encoder = True

        def pre_activations(self, x: Tensor) -> Tensor:
            return super().pre_activations(x)

    assert Traced.has_affine_encoder
    assert not type("Other", (sd.SparseDistiller,), {"pre_activations": lambda self, x: x}).has_affine_encoder


def test_a_kind_that_overrides_nothing_is_trained_saved_and_loaded(tmp_path: Any) -> None:
    plain = Plain(D, D, N_LATENTS, **PARTS)
    data = torch.randn(256, D)
    history = sd.fit(plain, data, n_tokens=2048, batch_size=64, progress=False, step_hooks=[sd.Resample(8, 128)])
    assert history.last.fvu < 1.0
    plain.save(tmp_path)
    same = sd.load(tmp_path, parts=[Plain])
    assert torch.equal(same(data).reconstruction, plain(data).reconstruction)


def test_the_base_class_is_abstract() -> None:
    with pytest.raises(TypeError, match=r"`Dictionary` is abstract. Use a kind such as `sd.SparseDistiller`"):
        sd.Dictionary(D, D, N_LATENTS, **PARTS)
