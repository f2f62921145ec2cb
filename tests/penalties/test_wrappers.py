from __future__ import annotations

import copy

import pytest
import torch

import cases
import sparsedict as sd

TARGETS = torch.zeros(9, cases.D_OUT, dtype=torch.float64)


@pytest.mark.parametrize("activation", ["relu", "top_k", "batch_top_k"])
@pytest.mark.parametrize("penalty", [sd.L1(0.3), sd.Sqrt(0.3), sd.Lp(0.3, p=0.7)])
def test_norm_weighting_can_not_be_cheated_by_rescaling(penalty: sd.L1, activation: str) -> None:
    dictionary = cases.make("distiller", activation, "free").train()
    rescaled = copy.deepcopy(dictionary)
    scale = torch.tensor(7.0)
    with torch.no_grad():
        rescaled.encoder.div_(scale)
        rescaled.encoder_bias.div_(scale)
        rescaled.decoder.mul_(scale)
    x = cases.tokens(9)
    before, after = dictionary.forward_pass(x, TARGETS), rescaled.forward_pass(x, TARGETS)
    torch.testing.assert_close(after.reconstruction, before.reconstruction)
    torch.testing.assert_close(sd.NormWeighted(penalty)(after), sd.NormWeighted(penalty)(before))
    assert penalty(after) < 0.9 * penalty(before)


def test_norm_weighting_presses_on_the_decoder_too() -> None:
    out = cases.make("distiller", "relu", "free").train().forward_pass(cases.tokens(9), TARGETS)
    (slope,) = torch.autograd.grad(sd.NormWeighted(sd.L1(1.0))(out), out.dictionary.decoder)
    assert (slope * out.dictionary.decoder).sum() > 0


@pytest.mark.parametrize(
    "penalty",
    [sd.L1(0.3), sd.Lp(0.3, p=0.7, eps=1e-300), sd.NormWeighted(sd.L1(0.3)), sd.PointNormWeighted(sd.L1(0.3))],
)
@pytest.mark.parametrize("scale", [2.0**-20, 1.0, 2.0**20])
def test_relative_penalties_scale_as_the_squared_error(penalty: sd.L1, scale: float) -> None:
    dictionary = cases.make("distiller", "relu", "free").train()
    x, targets = cases.tokens(9), torch.randn(9, cases.D_OUT, dtype=torch.float64)
    before = sd.Relative(penalty)(dictionary.forward_pass(x, targets))
    with torch.no_grad():
        dictionary.encoder_bias.mul_(scale)
        dictionary.decoder_bias.mul_(scale)
    after = sd.Relative(penalty)(dictionary.forward_pass(x * scale, targets * scale))
    torch.testing.assert_close(after, before * scale**2)


def test_a_relative_penalty_is_the_penalty_in_units_of_the_spread() -> None:
    out = cases.make("distiller", "relu").train().forward_pass(cases.tokens(9), torch.randn(9, cases.D_OUT).double())
    variance = (out.targets - out.targets.mean(0)).square().sum(1).mean()
    torch.testing.assert_close(sd.Relative(sd.L1(0.3))(out), sd.L1(0.3)(out) * variance.sqrt())


def test_targets_without_variance_have_a_finite_relative_penalty() -> None:
    out = cases.make("distiller", "relu").train().forward_pass(cases.tokens(9), TARGETS)
    penalty = sd.Relative(sd.L1(0.3))(out)
    penalty.backward()
    assert penalty.isfinite()


@pytest.mark.parametrize(("step", "share"), [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (10**6, 1.0)])
def test_warm_up_grows_linearly(step: int, share: float) -> None:
    out = cases.make("distiller").train().forward_pass(cases.tokens(9), TARGETS, step=step)
    torch.testing.assert_close(sd.WarmUp(sd.L1(0.3), 10)(out), share * sd.L1(0.3)(out))


def test_warm_up_passes_the_checks_of_its_penalty() -> None:
    with pytest.warns(UserWarning, match="L1 has no lasting effect with decoder_norm=Free"):
        sd.WarmUp(sd.L1(0.1), 5).check(cases.make("distiller", "relu", "free"))


@pytest.mark.as_installed
def test_bad_arguments_are_named() -> None:
    with pytest.raises(TypeError, match=r"`penalty` must be a LatentPenalty such as `sd\.L1\(0\.2\)`, got L0"):
        sd.NormWeighted(sd.L0(0.1))
    with pytest.raises(TypeError, match=r"`penalty` must be a LatentPenalty such as `sd\.L1\(0\.01\)`, got L0"):
        sd.Relative(sd.L0(0.1))
    with pytest.raises(TypeError, match=r"`penalty` must be a Penalty such as `sd\.L1\(0\.2\)`, got 0\.1"):
        sd.WarmUp(0.1, 5)
    with pytest.raises(ValueError, match="`n_steps` must be at least 1, got 0"):
        sd.WarmUp(sd.L1(0.1), 0)
