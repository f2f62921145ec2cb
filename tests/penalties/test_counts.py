from __future__ import annotations

import itertools
import math

import pytest
import torch

import cases
import sparsedict as sd

TARGETS = torch.zeros(9, cases.D_OUT, dtype=torch.float64)


def passed_by_jump_relu(targets: torch.Tensor = TARGETS) -> sd.ForwardPass:
    return cases.make("distiller", "jump_relu").train().forward_pass(cases.tokens(9), targets)


@pytest.mark.parametrize("dense_share", [0.0, 1.0])
def test_their_gradient_is_the_boxes(dense_share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsedict.dictionaries._encode.DENSE_SHARE", dense_share)
    passed = passed_by_jump_relu()
    log_threshold = passed.dictionary.activation_state.log_threshold
    threshold = log_threshold.detach().exp()
    pre = passed.dictionary.pre_activations(passed.inputs).detach()
    in_box = ((pre - threshold).abs() < cases.BANDWIDTH / 2).sum(0) / 9
    count_slope = -in_box / cases.BANDWIDTH * threshold
    assert in_box.any()
    (slope,) = torch.autograd.grad(sd.L0(0.3)(passed), log_threshold, retain_graph=True)
    torch.testing.assert_close(slope, 0.3 * count_slope)
    (slope,) = torch.autograd.grad(sd.TargetL0(2.0, 0.3)(passed), log_threshold)
    l0 = float((pre > threshold).sum() / 9)
    torch.testing.assert_close(slope, 0.3 * 2 * (l0 / 2 - 1) / 2 * count_slope)


def test_the_target_is_where_the_penalty_vanishes() -> None:
    passed = passed_by_jump_relu()
    l0 = float((passed.values > 0).sum() / 9)
    assert sd.TargetL0(l0, 1.0)(passed).item() == pytest.approx(0, abs=1e-12)
    assert sd.TargetL0(l0 / 2, 1.0)(passed) > 0
    assert sd.TargetL0(l0 * 2, 1.0)(passed) > 0


def test_the_controlled_coefficient_rises_above_the_target_and_falls_below_it() -> None:
    passed = passed_by_jump_relu(torch.randn(9, cases.D_OUT, dtype=torch.float64))
    l0 = float((passed.values > 0).sum() / 9)
    for factor, sign, n_steps in ((0.5, 1, 100), (2.0, -1, 300)):
        penalty = sd.TargetL0(l0 * factor)
        found = [penalty(passed).item() for _ in range(n_steps)]
        assert all((later - earlier) * sign > 0 for earlier, later in itertools.pairwise(found))
        assert math.copysign(1, found[-1]) == sign
    penalty = sd.TargetL0(l0)
    assert penalty(passed).item() == pytest.approx(penalty(passed).item())


def test_each_dictionary_has_a_coefficient_of_its_own_and_the_state_goes_on() -> None:
    targets = torch.randn(9, cases.D_OUT, dtype=torch.float64)
    first, second, penalty = passed_by_jump_relu(targets), passed_by_jump_relu(targets), sd.TargetL0(1.0)
    start = penalty(second).item()
    for _ in range(5):
        penalty(first)
    assert penalty(first).item() > start
    after = [penalty(second).item(), penalty(first).item()]
    other = sd.TargetL0(1.0)
    other.load_state_dict(penalty.state_dict())
    assert other == penalty
    again = [other(second).item(), other(first).item()]
    assert again == [penalty(second).item(), penalty(first).item()]
    assert all(later > earlier for earlier, later in zip(after, again, strict=True))


@pytest.mark.parametrize("activation", [name for name in cases.ACTIVATIONS if name != "jump_relu"])
@pytest.mark.parametrize("penalty", [sd.L0(0.1), sd.TargetL0(2.0)])
def test_they_refuse_activations_whose_firing_has_no_gradient(penalty: sd.Penalty, activation: str) -> None:
    with pytest.raises(ValueError, match=rf"{type(penalty).__name__} needs an activation that gives firing a gradient"):
        penalty.check(cases.make("distiller", activation))


def test_a_target_above_the_number_of_latents_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`target` must be at most n_latents=12, got 13"):
        sd.TargetL0(13.0).check(cases.make("distiller", "jump_relu"))


@pytest.mark.as_installed
def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"`target` must lie in \(0\.0, inf\), got 0"):
        sd.TargetL0(0)
