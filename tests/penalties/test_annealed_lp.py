from __future__ import annotations

import copy

import pytest
import torch

import cases
import sparsedict as sd

TARGETS = torch.zeros(9, cases.D_OUT, dtype=torch.float64)


def passed(step: int, n_steps: int | None = 20, dictionary: sd.Dictionary | None = None) -> sd.ForwardPass:
    dictionary = cases.make("distiller", "relu").train() if dictionary is None else dictionary
    return dictionary.forward_pass(cases.tokens(9), TARGETS, step=step, n_steps=n_steps)


def test_the_power_falls_in_equal_steps_from_begin_to_the_end() -> None:
    penalty = sd.AnnealedLp(0.1, end=0.2, begin=0.5, n_updates=4)
    assert [round(penalty.power(step, 20), 2) for step in range(20)] == [
        *[1.0] * 12, *[0.8] * 2, *[0.6] * 2, *[0.4] * 2, *[0.2] * 2
    ]  # fmt: skip
    assert penalty.power(3, None) == 1.0
    assert sd.AnnealedLp(0.1, begin=1.0).power(19, 20) == 1.0


def test_the_size_of_the_penalty_does_not_jump_when_the_power_falls() -> None:
    penalty = sd.AnnealedLp(0.1, end=0.2, begin=0.0, n_updates=3)
    dictionary = cases.make("distiller", "relu").train()
    sizes = [float(penalty(passed(step, 20, dictionary)).detach()) for step in range(20)]
    assert len({penalty.power(step, 20) for step in range(20)}) == 4
    torch.testing.assert_close(torch.tensor(sizes), torch.full((20,), sizes[0]))


def test_the_gradient_is_that_of_the_current_power() -> None:
    penalty = sd.AnnealedLp(0.1, end=0.5, begin=0.0, n_updates=1, eps=1e-2)
    dictionary = cases.make("distiller", "relu").train()
    before, after = (passed(step, 2, dictionary) for step in (0, 1))
    penalty(before)
    (found,) = torch.autograd.grad(penalty(after), dictionary.encoder, retain_graph=True)
    costs = [sd.Lp(1.0, p=p, eps=1e-2)(after) for p in (1.0, 0.5)]
    (wanted,) = torch.autograd.grad(costs[1] * (0.1 * costs[0] / costs[1]).detach(), dictionary.encoder)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_each_dictionary_has_its_own_factor() -> None:
    penalty = sd.AnnealedLp(0.1, end=0.2, begin=0.0, n_updates=1)
    small = cases.make("distiller", "relu").train()
    large = copy.deepcopy(small)
    with torch.no_grad():
        large.encoder.mul_(10)
        large.encoder_bias.mul_(10)
    sizes = [[float(penalty(passed(step, 2, d)).detach()) for d in (small, large)] for step in (0, 1)]
    assert sizes[1] == pytest.approx(sizes[0], rel=1e-5)
    assert len(set(map(float, penalty.state_dict()["factors"]))) == 2


def test_a_restored_penalty_has_the_same_factor() -> None:
    penalty, restored = (sd.AnnealedLp(0.1, end=0.2, begin=0.0, n_updates=2) for _ in range(2))
    dictionary = cases.make("distiller", "relu").train()
    for step in range(9):
        penalty(passed(step, 10, dictionary))
    restored.load_state_dict(copy.deepcopy(penalty.state_dict()))
    assert torch.equal(restored(passed(9, 10, dictionary)), penalty(passed(9, 10, dictionary)))


def test_it_trains_and_latents_shrink_less_than_under_l1() -> None:
    truth = sd.data.SyntheticFeatures(d=16, n_features=32, l0=3, seed=0)
    batch, _ = truth.sample(8_000, seed=1)
    l0 = {}
    for name, penalty in (("l1", sd.L1(0.3)), ("annealed", sd.AnnealedLp(0.3))):
        sae = sd.SparseAutoencoder(
            16, 48, activation=sd.ReLU(), decoder_norm=sd.UnitNorm(), generator=torch.Generator().manual_seed(0)
        )
        history = sd.fit(sae, batch.outputs, n_tokens=80_000, batch_size=256, penalties=[penalty], progress=False)
        l0[name] = history.last.l0
    assert l0["annealed"] < 0.8 * l0["l1"]


@pytest.mark.as_installed
def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"`end` must lie in \(0\.0, 1\.0\], got 0"):
        sd.AnnealedLp(0.1, end=0)
    with pytest.raises(ValueError, match="`n_updates` must be at least 1, got 0"):
        sd.AnnealedLp(0.1, n_updates=0)
    with pytest.raises(ValueError, match=r"`begin` must lie in \[0\.0, 1\.0\], got 2"):
        sd.AnnealedLp(0.1, begin=2)
    with pytest.raises(ValueError, match="must have non-negative latents for Lp"):
        sd.AnnealedLp(0.1).check(cases.make("distiller", "gelu"))
