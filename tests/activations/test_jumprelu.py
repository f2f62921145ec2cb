from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsedict as sd


def gradients(output: torch.Tensor, threshold: torch.Tensor, pre: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    found = torch.autograd.grad(output.sum(), (threshold, pre), allow_unused=True, retain_graph=True)
    return tuple(torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, (threshold, pre), strict=True))


def test_values_and_straight_through_gradients() -> None:
    activation = sd.JumpReLU(threshold=0.5, bandwidth=0.2)
    pre = torch.tensor([-1.0, 0.0, 0.39, 0.45, 0.5, 0.55, 0.61, 2.0], dtype=torch.float64, requires_grad=True)
    log_threshold = torch.full((8,), math.log(0.5), dtype=torch.float64, requires_grad=True)
    state = {"log_threshold": log_threshold}
    near = torch.tensor([0, 0, 0, 1, 1, 1, 0, 0]).double()
    above = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1]).double()
    above[4] = float(pre.detach()[4] > log_threshold.detach()[4].exp())
    values = activation.values(pre, state)
    torch.testing.assert_close(values, pre * above)
    to_threshold, to_pre = gradients(values, log_threshold, pre)
    # d/d theta = -theta / width within the box; theta = exp(log theta) gives another theta.
    torch.testing.assert_close(to_threshold, -near * 0.5 / 0.2 * 0.5)
    torch.testing.assert_close(to_pre, above)
    fires = activation.firing(pre, state)
    assert torch.equal(fires, above)
    to_threshold, to_pre = gradients(fires, log_threshold, pre)
    torch.testing.assert_close(to_threshold, -near / 0.2 * 0.5)
    assert not to_pre.any()


def test_the_l0_gradient_estimates_the_slope_of_the_expected_count() -> None:
    activation = sd.JumpReLU(threshold=0.5, bandwidth=0.1)
    pre = torch.randn(400_000, 1)
    log_threshold = torch.full((1,), math.log(0.5), requires_grad=True)
    count = activation.firing(pre, {"log_threshold": log_threshold}).sum() / len(pre)
    (slope,) = torch.autograd.grad(count, log_threshold)
    density = math.exp(-(0.5**2) / 2) / math.sqrt(2 * math.pi)
    assert float(slope) == pytest.approx(-density * 0.5, rel=0.05)


def test_training_stores_latents_just_below_the_threshold() -> None:
    activation = sd.JumpReLU(threshold=0.5, bandwidth=0.2)
    state = activation.initial_state(5)
    pre = torch.tensor([[0.3, 0.45, 0.55, 0.7, -2.0]])
    assert activation.support(pre, state, training=True).latents.tolist() == [1, 2, 3]
    assert activation.support(pre, state, training=False).latents.tolist() == [2, 3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@given(start=st.floats(1e-3, 9.0), bandwidth=st.floats(1e-4, 3.0), n_steps=st.lists(st.integers(-300, 300), min_size=1))
def test_training_stores_all_that_gets_a_gradient(
    start: float, bandwidth: float, n_steps: list[int], dtype: torch.dtype
) -> None:
    """In half precision the box may be narrower than the distance of two numbers."""
    activation = sd.JumpReLU(bandwidth=bandwidth)
    log_threshold = torch.tensor(start, dtype=dtype).log().expand(len(n_steps)).clone().requires_grad_()
    threshold = log_threshold.detach().exp()
    # Around the threshold and around the lower end of the box.
    steps = torch.tensor(n_steps) * torch.finfo(dtype).eps
    pre = torch.cat((threshold * (1 + steps), (threshold - bandwidth / 2) * (1 + steps / 8))).to(dtype)[None]
    log_threshold = log_threshold.detach().repeat(2).requires_grad_()
    state = {"log_threshold": log_threshold}
    (slopes,) = torch.autograd.grad(activation.firing(pre, state).sum(), log_threshold)
    stored = activation.support(pre, state, training=True).latents
    assert set(slopes.nonzero().flatten().tolist()) <= set(stored.tolist())


def test_minus_infinity_is_silent() -> None:
    activation = sd.JumpReLU()
    assert activation.values(torch.tensor([-math.inf]), activation.initial_state(1)).tolist() == [0]


def test_every_latent_starts_at_the_given_threshold() -> None:
    state = sd.JumpReLU(threshold=0.03).initial_state(4)
    assert isinstance(state["log_threshold"], torch.nn.Parameter)
    torch.testing.assert_close(state["log_threshold"].detach().exp(), torch.full((4,), 0.03))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 2.0**10])
def test_defaults_are_in_units_of_the_data(scale: float) -> None:
    x = scale * torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    dictionary = sd.SparseAutoencoder(8, 32, activation=sd.JumpReLU(), decoder_norm=sd.UnitNorm())
    sd.fit(dictionary, x, n_tokens=64, batch_size=64, lr=1e-9, progress=False)
    unit = float(dictionary.activation_state.get_buffer("unit"))
    assert unit == pytest.approx(scale, rel=0.2)
    threshold = dictionary.activation_state.log_threshold.detach().exp()
    torch.testing.assert_close(threshold, torch.full((32,), 0.1 * unit), rtol=1e-4, atol=0)
    assert "activation_state.unit" not in dictionary.state_dict()


@pytest.mark.filterwarnings("ignore:The dictionary. The target of TargetL0")
def test_a_dictionary_with_the_defaults_is_saved_read_and_trained_on(tmp_path: Path) -> None:
    x = 50 * torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    dictionary = sd.SparseAutoencoder(8, 32, activation=sd.JumpReLU(), decoder_norm=sd.UnitNorm())
    sd.fit(dictionary, x, n_tokens=64, batch_size=64, penalties=[sd.TargetL0(4)], progress=False)
    dictionary.save(tmp_path)
    loaded = sd.load(tmp_path)
    assert loaded.activation == sd.JumpReLU()
    assert torch.equal(loaded.encode(x), dictionary.encode(x))
    sd.fit(loaded, x, n_tokens=64, batch_size=64, penalties=[sd.TargetL0(4)], progress=False)
    unit = [d.activation_state.get_buffer("unit") for d in (dictionary, loaded)]
    assert torch.equal(*unit)


def test_a_given_threshold_is_taken_as_it_is() -> None:
    dictionary = sd.SparseAutoencoder(8, 32, activation=sd.JumpReLU(0.3, 0.2), decoder_norm=sd.UnitNorm())
    sd.fit(dictionary, 100 * torch.randn(64, 8), n_tokens=64, batch_size=64, lr=1e-9, progress=False)
    torch.testing.assert_close(
        dictionary.activation_state.log_threshold.detach().exp(), torch.full((32,), 0.3), rtol=1e-4, atol=0
    )


def test_the_penalty_moves_the_defaults() -> None:
    x = sd.data.SyntheticFeatures(d=16, n_features=48, l0=3, seed=0).sample(4096, seed=1)[0].outputs
    found = []
    for coefficient in (1e-3, 1e-2):
        generator = torch.Generator().manual_seed(0)
        dictionary = sd.SparseAutoencoder(
            16, 64, activation=sd.JumpReLU(), decoder_norm=sd.UnitNorm(), generator=generator
        )
        penalties = [sd.L0(coefficient)]
        found.append(sd.fit(dictionary, x, n_tokens=12_800, batch_size=128, penalties=penalties, progress=False).last)
    assert found[1].eval_l0 < 0.8 * found[0].eval_l0


@pytest.mark.as_installed
def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"`threshold` must lie in \(0\.0, inf\), got 0"):
        sd.JumpReLU(threshold=0)
    with pytest.raises(ValueError, match=r"`bandwidth` must lie in \(0\.0, inf\), got -1"):
        sd.JumpReLU(bandwidth=-1)


def test_thresholds_move_by_a_share_and_small_ones_by_more_down_to_a_least() -> None:
    log_threshold = torch.tensor([2.0, 0.05, 0.011, 0.001, 0.0]).log()
    state = {"log_threshold": log_threshold, "unit": torch.tensor(1.0), "left_out": torch.zeros(5)}
    sd.JumpReLU().move_thresholds_(state, torch.tensor(-0.1))
    expected = [2 * math.exp(-0.1), 0.05 * math.exp(-0.2), 0.01, 0.001, 0.0]
    torch.testing.assert_close(log_threshold.exp(), torch.tensor(expected))
    sd.JumpReLU().move_thresholds_(state, torch.tensor(0.1))
    assert log_threshold[0].item() == pytest.approx(math.log(2.0))
    assert log_threshold[2].item() == pytest.approx(math.log(0.01) + 1.0)


def test_only_a_reward_reaches_pre_activations() -> None:
    pre = torch.tensor([0.3, 0.6, 3.0], requires_grad=True)
    state = {"log_threshold": torch.tensor(0.5).log(), "unit": torch.tensor(1.0)}
    for weight, expected in ((2.0, [0.0, 0.0, 0.0]), (-2.0, [-2.0, -2.0, 0.0])):
        (slope,) = torch.autograd.grad(weight * sd.JumpReLU().firing(pre, state).sum(), pre)
        assert slope.tolist() == expected
