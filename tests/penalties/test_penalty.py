"""What every penalty keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cases
import sparsedict as sd

PAIRS = [(name, activation) for name, case in cases.PENALTIES.items() for activation in case.activations]
every_pair = pytest.mark.parametrize(("name", "activation"), PAIRS)


def pass_of(activation: str, norm: str = "free", x: Tensor | None = None, step: int = 0) -> sd.ForwardPass:
    dictionary = cases.make("distiller", activation, norm).train()
    with torch.no_grad():
        dictionary.decoder.mul_(torch.linspace(0.2, 2, cases.N_LATENTS)[:, None])
    x = cases.tokens(9) if x is None else x
    return dictionary.forward_pass(x, torch.zeros(len(x), cases.D_OUT, dtype=torch.float64), step=step)


def dense(out: sd.ForwardPass) -> Tensor:
    latents = out.encoding.latents()
    return latents.to_dense() if isinstance(latents, sd.SparseLatents) else latents


@every_pair
@pytest.mark.parametrize("dense_share", [0.0, 1.0])
def test_value_and_gradient_follow_the_formula(
    name: str, activation: str, dense_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsedict.dictionaries._encode.DENSE_SHARE", dense_share)
    case = cases.PENALTIES[name]
    out = pass_of(activation)
    actual, wanted = case.penalty(out), case.formula(dense(out), out.dictionary.decoder)
    assert actual.shape == ()
    torch.testing.assert_close(actual, wanted)
    if "l0" not in name:  # a count has no derivative of its own: see test_counts.py
        leaves = list(out.dictionary.parameters())
        slopes = torch.autograd.grad(actual, leaves, allow_unused=True, retain_graph=True)
        for ours, theirs in zip(slopes, torch.autograd.grad(wanted, leaves, allow_unused=True), strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs)


@every_pair
def test_never_negative_and_nothing_for_latents_at_zero(name: str, activation: str) -> None:
    penalty = cases.PENALTIES[name].penalty
    silent = pass_of(activation, x=cases.tokens(3)[:1].expand(4, -1))
    some = pass_of(activation)
    assert (dense(some) > 0).any()
    assert penalty(some) > 0
    if activation in ("gelu", "silu"):
        assert penalty(silent) >= 0
    elif name == "target_l0":
        assert penalty(silent).item() == pytest.approx(0.3)
    else:
        assert penalty(silent).item() == 0


@every_pair
def test_the_mean_over_tokens_does_not_grow_with_the_batch(name: str, activation: str) -> None:
    penalty = cases.PENALTIES[name].penalty
    x = cases.tokens(9)
    once, twice = pass_of(activation, x=x), pass_of(activation, x=torch.cat([x, x]))
    torch.testing.assert_close(penalty(twice), penalty(once))


@every_pair
def test_every_penalty_accepts_its_dictionaries(name: str, activation: str) -> None:
    cases.PENALTIES[name].penalty.check(cases.make("distiller", activation, "unit"))


@pytest.mark.parametrize("name", cases.PENALTIES)
def test_penalties_print_their_arguments(name: str) -> None:
    penalty = cases.PENALTIES[name].penalty
    assert repr(penalty).startswith(type(penalty).__name__ + "(")


@pytest.mark.parametrize("norm", cases.NORMS)
@pytest.mark.parametrize("penalty", [sd.L1(0.1), sd.Sqrt(0.1), sd.Lp(0.1, p=0.5)])
def test_a_plain_penalty_under_a_free_norm_warns(penalty: sd.Penalty, norm: str) -> None:
    dictionary = cases.make("distiller", "relu", norm)
    if norm == "free":
        with pytest.warns(UserWarning, match=r"has no lasting effect with decoder_norm=Free\(\).*NormWeighted"):
            penalty.check(dictionary)
    else:
        penalty.check(dictionary)
    sd.NormWeighted(penalty).check(dictionary)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("penalty", [sd.Sqrt(0.1), sd.Lp(0.1, p=0.5)])
def test_roots_reject_latents_that_may_be_negative(penalty: sd.Penalty, activation: str) -> None:
    dictionary = cases.make("distiller", activation)
    for wrapped in (penalty, sd.NormWeighted(penalty), sd.WarmUp(penalty, 5)):
        with pytest.raises(ValueError, match=rf"must have non-negative latents for {type(penalty).__name__}, got"):
            wrapped.check(dictionary)
    sd.L1(0.1).check(dictionary)


@pytest.mark.as_installed
def test_bad_arguments_are_named() -> None:
    for make in (sd.L1, sd.Sqrt, sd.L0, lambda value: sd.Lp(value, p=0.5)):
        with pytest.raises(ValueError, match=r"`coefficient` must lie in \[0\.0, inf\), got -0\.1"):
            make(-0.1)
        with pytest.raises(TypeError, match=r"`coefficient` must be a number, got '0\.1'"):
            make("0.1")
    with pytest.raises(ValueError, match="`coefficient` must be finite and not negative for every latent"):
        sd.L1(torch.tensor([0.1, -0.1]))
    with pytest.raises(ValueError, match=r"`p` must lie in \(0\.0, 1\.0\], got 1\.5"):
        sd.Lp(0.1, p=1.5)
    with pytest.raises(ValueError, match=r"`eps` must lie in \(0\.0, inf\), got 0"):
        sd.Sqrt(0.1, eps=0)
    with pytest.raises(ValueError, match=r"`coefficient` must be a tensor of shape \(12,\).*got \(3,\)"):
        sd.L1(torch.ones(3)).check(cases.make())
