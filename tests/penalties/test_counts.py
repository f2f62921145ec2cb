from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import cases
import sparsedict as sd

TARGETS = torch.zeros(9, cases.D_OUT, dtype=torch.float64)


def jump_relu_pass(targets: torch.Tensor = TARGETS) -> sd.ForwardPass:
    return cases.make("distiller", "jump_relu").train().forward_pass(cases.tokens(9), targets)


@pytest.mark.parametrize("dense_share", [0.0, 1.0])
def test_their_gradient_is_the_boxes(dense_share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsedict.dictionaries._encode.DENSE_SHARE", dense_share)
    out = jump_relu_pass()
    log_threshold = out.dictionary.activation_state.log_threshold
    threshold = log_threshold.detach().exp()
    pre = out.dictionary.pre_activations(out.inputs).detach()
    in_box = ((pre - threshold).abs() < cases.BANDWIDTH / 2).sum(0) / 9
    count_slope = -in_box / cases.BANDWIDTH * threshold
    assert in_box.any()
    (slope,) = torch.autograd.grad(sd.L0(0.3)(out), log_threshold, retain_graph=True)
    torch.testing.assert_close(slope, 0.3 * count_slope)
    (slope,) = torch.autograd.grad(sd.TargetL0(2.0, 0.3)(out), log_threshold)
    l0 = float((pre > threshold).sum() / 9)
    torch.testing.assert_close(slope, 0.3 * 2 * (l0 / 2 - 1) / 2 * count_slope)


def test_a_coefficient_of_ones_own_moves_thresholds_alone() -> None:
    out = jump_relu_pass()
    l0 = float((out.values > 0).sum() / 9)
    for factor in (0.5, 2.0):
        penalty = sd.TargetL0(l0 * factor, 1.0)(out)
        encoder, thresholds = torch.autograd.grad(
            penalty,
            [out.dictionary.encoder, out.dictionary.activation_state.get_parameter("log_threshold")],
            allow_unused=True,
            retain_graph=True,
        )
        assert encoder is None
        assert thresholds.any()


def test_the_target_is_where_the_penalty_vanishes() -> None:
    out = jump_relu_pass()
    l0 = float((out.values > 0).sum() / 9)
    assert sd.TargetL0(l0, 1.0)(out).item() == pytest.approx(0, abs=1e-12)
    assert sd.TargetL0(l0 / 2, 1.0)(out) > 0
    assert sd.TargetL0(l0 * 2, 1.0)(out) > 0


def logarithms(penalty: sd.TargetL0) -> list[float]:
    return [value.item() for value in penalty.state_dict()["logarithms"]]


def test_the_controller_raises_thresholds_and_cost_above_the_target_and_lowers_them_below_it() -> None:
    for factor, sign in ((0.5, 1), (2.0, -1)):
        out = jump_relu_pass(torch.randn(9, cases.D_OUT, dtype=torch.float64))
        thresholds = out.dictionary.activation_state.log_threshold
        before = thresholds.detach().clone()
        penalty = sd.TargetL0(float((out.values > 0).sum() / 9) * factor)
        assert penalty(out) > 0
        found = [logarithms(penalty)[0]]
        for step in range(200):
            penalty.after_step_(replace(out, step=step))
            found += logarithms(penalty)
        assert all((later - earlier) * sign >= 0 for earlier, later in itertools.pairwise(found))
        assert math.copysign(1, penalty(replace(out, step=200)).item()) == sign
        assert ((thresholds.detach() - before) * sign > 0).all()


def test_the_controller_leaves_a_dictionary_at_the_target_alone() -> None:
    out = jump_relu_pass(torch.randn(9, cases.D_OUT, dtype=torch.float64))
    before = out.dictionary.activation_state.log_threshold.detach().clone()
    penalty = sd.TargetL0(float((out.values > 0).sum()) / 9)
    cost = penalty(out).item()
    penalty.after_step_(out)
    torch.testing.assert_close(out.dictionary.activation_state.log_threshold.detach(), before, rtol=0, atol=1e-6)
    assert penalty(out).item() == pytest.approx(cost)


def test_each_dictionary_has_a_coefficient_of_its_own_and_the_state_goes_on() -> None:
    targets = torch.randn(9, cases.D_OUT, dtype=torch.float64)
    earlier, first, second = (jump_relu_pass(targets) for _ in range(3))
    penalty = sd.TargetL0(0.1)
    penalty(earlier)
    penalty.after_step_(replace(earlier, step=1))
    penalty(first)
    penalty(second)
    start = logarithms(penalty)
    assert len(start) == 2  # the earlier run is over
    first, second = replace(first, step=1), replace(second, step=1)
    penalty.after_step_(first)
    assert logarithms(penalty)[0] > start[0]
    assert logarithms(penalty)[1] == start[1]
    other = sd.TargetL0(0.1)
    other.load_state_dict(penalty.state_dict())
    assert other == penalty
    assert [other(part).item() for part in (first, second)] == [penalty(part).item() for part in (first, second)]


def test_a_new_run_begins_with_a_new_coefficient() -> None:
    out, penalty = jump_relu_pass(torch.randn(9, cases.D_OUT, dtype=torch.float64)), sd.TargetL0(0.1)
    penalty(out)
    start = logarithms(penalty)
    penalty.after_step_(replace(out, step=1))
    assert logarithms(penalty) > start
    penalty(out)
    assert logarithms(penalty) == start


@pytest.mark.parametrize("target", [4, 24])
def test_the_target_is_reached_on_fresh_tokens(target: int) -> None:
    truth = sd.data.SyntheticFeatures(d=16, n_features=64, l0=4, seed=0)
    generator = torch.Generator().manual_seed(0)
    sae = sd.SparseAutoencoder(16, 128, activation=sd.JumpReLU(), decoder_norm=sd.UnitNorm(), generator=generator)
    data = 1000 * truth.sample(20_000, seed=1)[0].outputs
    sd.fit(sae, data, n_tokens=64 * 300, batch_size=64, penalties=[sd.TargetL0(target)], progress=False)
    fresh = 1000 * truth.sample(10_000, seed=2)[0].outputs
    assert float(sd.metrics.l0(sae.encode_sparse(fresh))) == pytest.approx(target, rel=0.05)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    data = sd.data.SyntheticFeatures(d=8, n_features=24, l0=3, seed=0).sample(2048, seed=1)[0].outputs
    ended = []
    for stops in (False, True):
        penalty = sd.TargetL0(3)
        saes = {name: _sae(seed) for seed, name in enumerate("ab")}
        trainees = {name: sd.Trainee(sae, [penalty]) for name, sae in saes.items()}
        settings = {"n_tokens": 1280, "batch_size": 64, "progress": False, "log_every": 10}
        if stops:
            with pytest.raises(InterruptedError):
                sd.fit_many(trainees, data, checkpoint=tmp_path, checkpoint_every=5, callbacks=[_stop], **settings)
            penalty = sd.TargetL0(3)
            saes = {name: _sae(seed) for seed, name in enumerate("ab")}
            trainees = {name: sd.Trainee(sae, [penalty]) for name, sae in saes.items()}
            settings |= {"checkpoint": tmp_path, "resume": True}
        sd.fit_many(trainees, data, **settings)
        ended.append([value for sae in saes.values() for value in sae.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*ended, strict=True))


def _fitted(dictionary: sd.Dictionary, n_steps: int, *, paired: bool, **settings: Any) -> float:
    """Trains with a target of 8, and returns L0 on fresh tokens."""
    truth = sd.data.SyntheticFeatures(d=16, n_features=64, l0=4, seed=0)

    def data(n: int, seed: int) -> Any:
        x = truth.sample(n, seed)[0].outputs.to(dictionary.decoder.dtype)
        return (x, x.roll(1, -1).relu()) if paired else x

    sd.fit(dictionary, data(20_000, 1), n_tokens=64 * n_steps, batch_size=64, progress=False, **settings)
    fresh = data(10_000, 2)
    return float(sd.metrics.l0(dictionary.encode_sparse(fresh[0] if paired else fresh)))


@pytest.mark.parametrize(
    ("kind", "dtype", "autocast"),
    [
        ("distiller", torch.float32, torch.bfloat16),
        ("distiller", torch.bfloat16, None),
        ("autoencoder", torch.bfloat16, None),
    ],
)
def test_the_target_is_reached_in_half_precision_and_by_distillers(
    kind: str, dtype: torch.dtype, autocast: torch.dtype | None
) -> None:
    settings: dict[str, Any] = {"activation": sd.JumpReLU(), "decoder_norm": sd.UnitNorm(), "dtype": dtype}
    settings["generator"] = torch.Generator().manual_seed(0)
    paired = kind == "distiller"
    dictionary = sd.SparseDistiller(16, 16, 64, **settings) if paired else sd.SparseAutoencoder(16, 64, **settings)
    found = _fitted(dictionary, 300, paired=paired, autocast=autocast, penalties=[sd.TargetL0(8)])
    assert found == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_moves_of_thresholds_add_up_in_every_precision(dtype: torch.dtype) -> None:
    dictionary = sd.SparseAutoencoder(4, 6, activation=sd.JumpReLU(0.5, 0.1), decoder_norm=sd.UnitNorm(), dtype=dtype)
    state = dictionary.activation_state.entries()
    before = state["log_threshold"].detach().clone()
    for _ in range(1000):
        dictionary.activation.move_thresholds_(state, torch.tensor(1e-4))
    moved = (state["log_threshold"] - before).detach().float()
    torch.testing.assert_close(moved, torch.full((6,), 0.1), rtol=0, atol=4e-3)


@pytest.mark.parametrize(
    ("penalty", "remedy"),
    [
        (sd.TargetL0(4), "Train for more steps"),
        (sd.WarmUp(sd.TargetL0(4), 2), "Train for more steps"),
        (sd.TargetL0(4, 1e-9), "Omit `coefficient`"),
    ],
)
def test_a_target_that_is_missed_gives_a_warning_with_the_figures(penalty: sd.Penalty, remedy: str) -> None:
    data = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    with pytest.warns(
        UserWarning, match=rf"The dictionary: The target of TargetL0 was 4, but the final L0 is \d+\.\d .*{remedy}"
    ):
        history = sd.fit(_sae(0), data, n_tokens=512, batch_size=256, lr=1e-9, penalties=[penalty], progress=False)
    assert history.last.eval_l0 > 5


def test_a_target_within_a_tenth_or_the_noise_of_the_tokens_gives_none() -> None:
    assert sd.TargetL0(8).missed(8.7, 10_000) is None
    assert sd.TargetL0(8).missed(8.9, 10_000) is not None
    assert sd.TargetL0(8).missed(7.1, 10_000) is not None
    assert sd.TargetL0(8).missed(9.5, 64) is None
    assert sd.L1(1.0).missed(1.0, 1) is None


def _sae(seed: int) -> sd.SparseAutoencoder:
    generator = torch.Generator().manual_seed(seed)
    return sd.SparseAutoencoder(8, 32, activation=sd.JumpReLU(), decoder_norm=sd.UnitNorm(), generator=generator)


def _stop(name: str, record: sd.Record, dictionary: sd.Dictionary) -> None:
    raise InterruptedError


def test_an_activation_must_say_how_its_thresholds_move() -> None:
    class Own(sd.JumpReLU):
        move_thresholds_ = sd.Activation.move_thresholds_

    dictionary = sd.SparseAutoencoder(8, 32, activation=Own(), decoder_norm=sd.UnitNorm())
    with pytest.raises(ValueError, match=r"`activation` must implement `move_thresholds_` for TargetL0"):
        sd.TargetL0(2.0).check(dictionary)
    sd.TargetL0(2.0, 0.1).check(dictionary)


@pytest.mark.filterwarnings("ignore:The dictionary. The target of TargetL0")
def test_a_penalty_that_warms_up_moves_thresholds_too() -> None:
    data = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    saes = [_sae(0), _sae(0)]
    for sae, target in zip(saes, (1.0, 30.0), strict=True):
        penalties = [sd.WarmUp(sd.TargetL0(target), 100)]
        sd.fit(sae, data, n_tokens=512, batch_size=64, lr=1e-9, penalties=penalties, progress=False)
    few, many = (sae.activation_state.log_threshold.detach() for sae in saes)
    assert (few - many > 0.5).all()


def test_frozen_thresholds_raise() -> None:
    dictionary = cases.make("distiller", "jump_relu")
    dictionary.activation_state.requires_grad_(False)
    with pytest.raises(ValueError, match=r"The thresholds of .* must have requires_grad=True for TargetL0, got False"):
        sd.TargetL0(2.0).check(dictionary)
    sd.TargetL0(2.0, 0.1).check(dictionary)


@pytest.mark.parametrize("activation", [name for name in cases.ACTIVATIONS if "jump_relu" not in name])
@pytest.mark.parametrize("penalty", [sd.L0(0.1), sd.TargetL0(2.0)])
def test_they_reject_activations_whose_firing_has_no_gradient(penalty: sd.Penalty, activation: str) -> None:
    with pytest.raises(ValueError, match=rf"must define a gradient for firing .* for {type(penalty).__name__}"):
        penalty.check(cases.make("distiller", activation))


def test_a_target_above_the_number_of_latents_raises() -> None:
    with pytest.raises(ValueError, match=r"`target` must be at most n_latents=12, got 13"):
        sd.TargetL0(13.0).check(cases.make("distiller", "jump_relu"))


@pytest.mark.as_installed
def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"`target` must lie in \(0\.0, inf\), got 0"):
        sd.TargetL0(0)
