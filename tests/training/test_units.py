"""With the default rate, training is independent of the scale of activations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sparsedict as sd
from sparsedict.training import LazyAdam, RelativeLR, default_lr

D, N_LATENTS = 16, 64
DATA = sd.data.SyntheticFeatures(d=D, n_features=48, l0=3, seed=0).sample(4096, seed=1)[0]


class Rescaling(sd.Dictionary):
    """Reads tokens divided by their length, and multiplies its output by it, as ``docs/extending.md`` has it."""

    reads = "inputs"
    writes = "outputs"

    def length(self, x: Tensor) -> Tensor:
        return x.norm(dim=-1, keepdim=True).clamp_min(1e-12)

    def encoder_inputs(self, x: Tensor) -> Tensor:
        return x / self.length(x)

    def pre_activations(self, x: Tensor) -> Tensor:
        return self.encoder_inputs(x) @ self.encoder.T + self.encoder_bias

    def decode(self, latents: Tensor | sd.SparseLatents) -> Tensor:
        return sd.kernels.matmul(latents, self.decoder) + self.decoder_bias

    def reconstruct(self, latents: Tensor | sd.SparseLatents, inputs: Tensor) -> Tensor:
        return self.decode(latents) * self.length(inputs)


def make(kind: str = "distiller", activation: sd.Activation | None = None) -> sd.Dictionary:
    parts: dict[str, Any] = {
        "activation": sd.TopK(4) if activation is None else activation,
        "decoder_norm": sd.UnitNorm(),
        "generator": torch.Generator().manual_seed(0),
    }
    if kind == "distiller":
        return sd.SparseDistiller(D, D, N_LATENTS, input_bias=True, skip=True, **parts)
    if kind == "normalised distiller":
        return sd.SparseDistiller(D, D, N_LATENTS, input_norm=sd.InputRMSNorm(), skip=True, **parts)
    if kind == "own":
        return Rescaling(D, D, N_LATENTS, **parts)
    options = {"autoencoder": {}, "offset": {"input_offset": "own"}, "normalised": {"input_norm": sd.InputRMSNorm()}}
    return sd.SparseAutoencoder(D, N_LATENTS, **options[kind], **parts)


def trained(dictionary: sd.Dictionary, inputs: float, outputs: float, **arguments: Any) -> sd.Record:
    is_autoencoder = dictionary.reads == dictionary.writes
    data = DATA.outputs * outputs if is_autoencoder else (DATA.inputs * inputs, DATA.outputs * outputs)
    arguments = {"n_tokens": 4096, "batch_size": 256, **arguments}
    return sd.fit(dictionary, data, progress=False, **arguments).last


KINDS = ("distiller", "normalised distiller", "autoencoder", "offset", "normalised", "own")
OPTIMIZERS = {
    "adam": None,
    "lazy": LazyAdam,
    "decoupled": functools.partial(torch.optim.AdamW, weight_decay=0.1),
    "decayed": functools.partial(torch.optim.Adam, weight_decay=0.01),
}
PARTS: dict[str, dict[str, Any]] = {
    "clip": {"clip_norm": 0.3},
    "auxk": {"penalties": [sd.AuxK(dead_after=1000)]},
    "resample": {"step_hooks": [sd.Resample(every=8, dead_after=1000)]},
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "norm" not in kind and kind != "own"])
def test_powers_of_two_change_no_bit(kind: str) -> None:
    first = trained(make(kind), 1, 1)
    for inputs, outputs in ((2**10, 2**10), (2**-10, 2**-10), (2**7, 2**-9)):
        dictionary = make(kind)
        last = trained(dictionary, inputs, outputs)
        assert (last.fvu, last.l0, last.dead, last.lr) == (first.fvu, first.l0, first.dead, first.lr)
        assert last.loss == first.loss * outputs**2


@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1e-10, 1e10, 1e20, 1e37])
@pytest.mark.parametrize("lr", [None, 1e-3])
@pytest.mark.parametrize("kind", ["distiller", "autoencoder"])
def test_scales_at_which_squared_gradients_are_no_numbers_raise(kind: str, lr: float | None, scale: float) -> None:
    """Adam divides by the root of zero, or by infinity, and the error was 1e9 times the variance at 1e-10."""
    word = "small" if scale < 1 else "large"
    with pytest.raises(ValueError, match=rf"`data` must have a scale .* too {word}: .* targets \d\.?\d*e[+-]\d\d\."):
        trained(make(kind), scale, scale, lr=lr)


@pytest.mark.parametrize("scale", [1e-6, 1e7])
def test_scales_within_the_limits_give_the_same_error(scale: float) -> None:
    assert trained(make(), scale, scale).fvu == pytest.approx(trained(make(), 1, 1).fvu, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_a_float64_dictionary_has_wider_limits(scale: float) -> None:
    found = [
        sd.fit(make().double(), (DATA.inputs.double() * s, DATA.outputs.double() * s), n_tokens=2048, progress=False)
        for s in (1, scale)
    ]
    assert found[1].last.fvu == pytest.approx(found[0].last.fvu, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reaches_the_same_error_at_any_scale(kind: str) -> None:
    first = trained(make(kind), 1, 1).fvu
    for inputs, outputs in ((1000, 1000), (1e-3, 1e-3)):
        assert trained(make(kind), inputs, outputs).fvu == pytest.approx(first, rel=0.01)


@pytest.mark.parametrize("activation", [sd.ReLU(), sd.GELU(), sd.BatchTopK(4), sd.AbsTopK(4), sd.Gated()], ids=repr)
def test_every_activation_that_has_no_unit_of_its_own(activation: sd.Activation) -> None:
    first, scaled = make("autoencoder", activation), make("autoencoder", activation)
    # GELU isn't scale-free: it bends where its argument is about 1.
    exact = not isinstance(activation, sd.GELU)
    found = trained(first, 1, 1), trained(scaled, 1, 2**10)
    assert not exact or found[0].fvu == found[1].fvu
    assert found[1].fvu < 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_that_normalise_gradients(name: str) -> None:
    first, scaled = (trained(make(), 1, scale, optimizer=OPTIMIZERS[name]).fvu for scale in (1, 2**-10))
    assert first == scaled


def test_an_optimiser_with_two_eps_keeps_them() -> None:
    """Adafactor's steps are relative to the parameters, and its ``eps`` is a pair."""
    assert trained(make(), 1, 1, optimizer=torch.optim.Adafactor, n_tokens=512).fvu < 1


COEFFICIENTS: dict[str, tuple[sd.Activation, Callable[[float, float], sd.Penalty]]] = {
    "L1": (sd.ReLU(), lambda s, eps: sd.L1(0.05 * s)),
    "Sqrt": (sd.ReLU(), lambda s, eps: sd.Sqrt(0.05 * s**1.5, eps=1e-3 * eps)),
    "Lp": (sd.ReLU(), lambda s, eps: sd.Lp(0.05 * s**1.75, p=0.25, eps=1e-3 * eps)),
    "AnnealedLp": (sd.ReLU(), lambda s, eps: sd.AnnealedLp(0.05 * s, eps=1e-3 * eps)),
    "Tanh": (sd.ReLU(), lambda s, eps: sd.Tanh(0.05 * s**2, scale=4 / eps)),
    "L0": (sd.JumpReLU(), lambda s, eps: sd.L0(0.05 * s**2)),
    "Frequency": (sd.JumpReLU(), lambda s, eps: sd.Frequency(0.05 * s**2)),
    "TargetL0": (sd.JumpReLU(), lambda s, eps: sd.TargetL0(4, coefficient=0.5 * s**2)),
    "PreActivation": (sd.JumpReLU(), lambda s, eps: sd.PreActivation(0.05 * s)),
}


@pytest.mark.filterwarnings("ignore:.*target of TargetL0")
@pytest.mark.parametrize("name", COEFFICIENTS)
def test_coefficients_have_the_units_of_the_documentation(name: str) -> None:
    activation, penalty = COEFFICIENTS[name]
    scale = 2.0**10

    def fvu(data: float, penalties: list[sd.Penalty]) -> float:
        return trained(make("autoencoder", activation), 1, data, penalties=penalties).fvu

    first = fvu(1, [penalty(1, 1)])
    assert fvu(scale, [penalty(scale, scale)]) == pytest.approx(first, rel=1e-4)
    assert fvu(scale, [penalty(1, scale)]) != pytest.approx(first, rel=1e-3)  # the coefficient is absolute


@pytest.mark.parametrize("name", PARTS)
def test_other_parts_of_training(name: str) -> None:
    first, scaled = (trained(make("autoencoder"), 1, scale, **PARTS[name]) for scale in (1, 2**10))
    assert first.fvu == scaled.fvu
    assert first.dead == pytest.approx(scaled.dead, abs=0, nan_ok=True)


def test_an_explicit_rate_is_the_optimisers_own() -> None:
    trainee = sd.Trainee(make(), lr=3e-3)
    assert not trainee.has_relative_lr
    rates: list[list[float]] = []

    class Watch(sd.training.StepHook):
        def __call__(self, out: sd.ForwardPass, optimizer: torch.optim.Optimizer) -> None:
            rates.append([group["lr"] for group in optimizer.param_groups])

    for lr in (3e-3, RelativeLR(3e-3)):
        trained(make(), 100, 100, lr=lr, n_tokens=256, step_hooks=[Watch()], schedule=sd.training.Constant())
    assert rates[0] == [3e-3]
    assert len(rates[1]) > 1
    assert min(rates[1]) == 3e-3
    assert max(rates[1]) > 0.1


def test_the_default_is_a_relative_rate() -> None:
    found = [trained(make(), 8, 0.25, lr=lr).fvu for lr in (None, RelativeLR(default_lr(make())))]
    assert found[0] == found[1]
    with pytest.raises(ValueError, match=r"`lr` must lie in \(0\.0, inf\), got 0"):
        RelativeLR(0.0)


def test_a_resumed_run_uses_the_units_of_its_start(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(name: str, record: sd.Record, dictionary: sd.Dictionary) -> None:
        if record.step == 8:
            raise StopError

    whole, stopped = make(), make()
    trained(whole, 100, 0.01)
    run = {"checkpoint": tmp_path, "checkpoint_every": 4, "log_every": 4}
    with pytest.raises(StopError):
        trained(stopped, 100, 0.01, callbacks=[stop], **run)
    resumed = make()
    trained(resumed, 100, 0.01, resume=True, callbacks=[lambda *_: None], **run)
    weights = resumed.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in whole.state_dict().items())


def test_a_few_huge_tokens_change_no_unit() -> None:
    x = DATA.outputs.clone()
    x[::200] *= 30
    units = [make("autoencoder").scales(rows, rows).targets for rows in (DATA.outputs, x)]
    assert units[1] == pytest.approx(units[0], rel=0.3)


@pytest.mark.parametrize("x", [torch.zeros(8, D), torch.zeros(1, D)])
def test_nothing_to_measure_gives_units_of_one(x: Tensor) -> None:
    assert make().scales(x, x) == sd.dictionaries.Scales(1.0, 1.0, 1.0, 1.0)
