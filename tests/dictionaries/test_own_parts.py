"""Parts and kinds of a user's own work without touching the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cases
import sparsedict as sd


@dataclass(frozen=True)
class ShiftedReLU(sd.Activation):
    """``relu(p - shift) * gain`` with a gain learned for each latent."""

    shift: float
    names: tuple[str, ...] = ()

    def initial_state(self, n_latents: int) -> dict[str, Tensor]:
        return {"gain": nn.Parameter(torch.ones(n_latents)), "n_steps": torch.zeros((), dtype=torch.int64)}

    def values(self, pre: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        return (pre - self.shift).relu() * state["gain"]

    def support(self, pre: Tensor, state: Mapping[str, Tensor], *, training: bool) -> sd.Support:
        return sd.Support.from_mask(pre > self.shift)

    def after_step_(self, values: Tensor, state: Mapping[str, Tensor]) -> None:
        state["n_steps"].add_(1)


@dataclass(frozen=True)
class Squared(sd.Activation):
    """``relu(p)^2``; says nothing about its support."""

    def values(self, pre: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        return pre.relu().square()


@dataclass(frozen=True)
class ExactNorm(sd.DecoderNorm):
    length: float

    @torch.no_grad()
    def constrain_(self, decoder: Tensor) -> None:
        norms = decoder.norm(dim=-1, keepdim=True)
        if float(norms.min()) > 0:  # looks at numbers, which a tensor without storage doesn't have
            decoder.mul_(self.length / norms)


@dataclass(frozen=True)
class Entropy(sd.Penalty):
    coefficient: float

    def __call__(self, out: sd.ForwardPass) -> Tensor:
        weighted = out.values * out.aligned(out.decoder_norms)
        return self.coefficient * (1 + weighted).log().sum() / out.n_tokens


class Normalising(sd.Dictionary):
    """Reads each token divided by its length, and multiplies its output by it: the encoder isn't affine."""

    reads = "inputs"
    writes = "outputs"

    def __init__(self, d_in: int, d_out: int, n_latents: int, *, activation, decoder_norm, floor: float = 1e-3) -> None:
        super().__init__(d_in, d_out, n_latents, activation=activation, decoder_norm=decoder_norm)
        self.floor = floor
        self.register_buffer("n_calls", torch.zeros(()), persistent=False)

    def length(self, x: Tensor) -> Tensor:
        return x.norm(dim=-1, keepdim=True).clamp_min(self.floor)

    def pre_activations(self, x: Tensor) -> Tensor:
        return x / self.length(x) @ self.encoder.T + self.encoder_bias

    def decode(self, latents: Tensor | sd.SparseLatents) -> Tensor:
        return sd.kernels.matmul(latents, self.decoder) + self.decoder_bias

    def reconstruct(self, latents: Tensor | sd.SparseLatents, inputs: Tensor) -> Tensor:
        return self.decode(latents) * self.length(inputs)

    def arguments(self) -> dict[str, object]:
        return super().arguments() | {"floor": self.floor}


ACTIVATIONS = {
    "shifted": ShiftedReLU(0.1, ("a", "b")),
    "squared": Squared(),
    **{name: case.activation for name, case in cases.ACTIVATIONS.items()},
}


def make(activation: sd.Activation) -> Normalising:
    return Normalising(6, 5, 12, activation=activation, decoder_norm=ExactNorm(0.5), floor=0.01).double()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_they_train_a_step(name: str) -> None:
    dictionary = make(ACTIVATIONS[name]).train()
    before = {name: weight.detach().clone() for name, weight in dictionary.named_parameters()}
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=0.01)
    losses = []
    for step in range(5):
        out = dictionary.forward_pass(cases.tokens(20), torch.ones(20, 5, dtype=torch.float64), step=step)
        loss = sd.SquaredError()(out) + Entropy(0.01)(out) + sd.AuxK(k=2, dead_after=1)(out)
        optimizer.zero_grad()
        loss.backward()
        dictionary.decoder_norm.project_gradient_(dictionary.decoder, dictionary.decoder.grad)
        optimizer.step()
        dictionary.decoder_norm.constrain_(dictionary.decoder)
        dictionary.activation.after_step_(out.values.detach(), out.state)
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    torch.testing.assert_close(dictionary.decoder.norm(dim=-1), torch.full((12,), 0.5, dtype=torch.float64))
    if name not in ("jump_relu", "gated"):  # their thresholds and gates have gradients of their own, or none
        assert all(not torch.equal(weight, before[name]) for name, weight in dictionary.named_parameters())


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dense_share", [0.0, 1.0])
def test_the_training_step_equals_plain_autograd(
    name: str, dense_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsedict.dictionaries._encode.DENSE_SHARE", dense_share)
    dictionary = make(ACTIVATIONS[name]).train()
    x = cases.tokens(9).requires_grad_()
    leaves = [x, *dictionary.parameters()]
    out = dictionary.forward_pass(x, torch.zeros(9, 5, dtype=torch.float64))
    actual = torch.autograd.grad(out.reconstruction.square().sum(), leaves, allow_unused=True)
    # The latents are plain torch here, on a mask that says what was stored; all the rest is dense.
    pre = dictionary.pre_activations(x)
    mask = torch.ones_like(pre)
    if out.support is not None:
        mask = torch.zeros_like(pre).index_put((out.support.tokens, out.support.latents), torch.ones(()).double())
    latents = dictionary.activation.values(pre, dictionary.activation_state.entries()) * mask
    output = (latents @ dictionary.decoder + dictionary.decoder_bias) * dictionary.length(x)
    wanted = torch.autograd.grad(output.square().sum(), leaves, allow_unused=True)
    for a, b in zip(actual, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_they_are_saved_and_loaded_when_passed_in(name: str, tmp_path: Path) -> None:
    saved = make(ACTIVATIONS[name])
    saved.save(tmp_path)
    parts = [Normalising, ShiftedReLU, Squared, ExactNorm]
    loaded = sd.load(tmp_path, parts=parts)
    assert type(loaded) is Normalising
    assert loaded.arguments() == saved.arguments()
    assert loaded.activation == saved.activation
    assert loaded.decoder_norm == ExactNorm(0.5)
    assert not loaded.n_calls.is_meta
    for weight, wanted in zip(loaded.state_dict().values(), saved.state_dict().values(), strict=True):
        assert weight.dtype == wanted.dtype
        torch.testing.assert_close(weight, wanted, rtol=0, atol=0, equal_nan=True)
    for missing in {Normalising, type(saved.activation), ExactNorm} & set(parts):
        with pytest.raises(ValueError, match=rf"from 'test_own_parts'.*parts=\[{missing.__name__}\]"):
            sd.load(tmp_path, parts=[part for part in parts if part is not missing])


def test_two_classes_of_one_name_raise(tmp_path: Path) -> None:
    make(Squared()).save(tmp_path)
    other = dataclass(frozen=True)(type("Squared", (Squared,), {}))
    with pytest.raises(ValueError, match="the activation is 'Squared', and `parts` contains 2 classes of that name"):
        sd.load(tmp_path, parts=[Normalising, ExactNorm, Squared, other])


def test_an_own_class_named_like_the_librarys_is_not_taken_for_it(tmp_path: Path) -> None:
    own = dataclass(frozen=True)(type("ReLU", (Squared,), {"__module__": __name__}))
    saved = sd.SparseDistiller(6, 5, 12, activation=own(), decoder_norm=sd.Free())
    saved.save(tmp_path)
    with pytest.raises(ValueError, match="'ReLU' from 'test_own_parts'"):
        sd.load(tmp_path)
    assert type(sd.load(tmp_path, parts=[own]).activation) is own


def test_a_part_that_holds_a_tensor_can_not_be_saved(tmp_path: Path) -> None:
    @dataclass(frozen=True, eq=False)
    class Scaled(sd.Activation):
        scale: Tensor

        def values(self, pre: Tensor, state: Mapping[str, Tensor]) -> Tensor:
            return pre.relu() * self.scale

    dictionary = sd.SparseDistiller(6, 5, 12, activation=Scaled(torch.ones(())), decoder_norm=sd.Free())
    with pytest.raises(TypeError, match=r"`scale` of Scaled must be None, .* to be saved, got a Tensor"):
        dictionary.save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
