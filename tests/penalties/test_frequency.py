from __future__ import annotations

import pytest
import torch

import cases
import sparsedict as sd

TARGETS = torch.zeros(9, cases.D_OUT, dtype=torch.float64)


@pytest.mark.parametrize("dense_share", [0.0, 1.0])
def test_the_gradient_weights_the_estimated_slope_by_the_frequency(
    dense_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsedict.dictionaries._encode.DENSE_SHARE", dense_share)
    dictionary = cases.make("distiller", "jump_relu").train()
    out = dictionary.forward_pass(cases.tokens(9), TARGETS)
    state = dictionary.activation_state.get_parameter("log_threshold")
    (found,) = torch.autograd.grad(sd.Frequency(0.3, scale=0.2)(out), state, retain_graph=True)
    pre = dictionary.pre_activations(cases.tokens(9))
    fired = dictionary.activation.firing(pre, {"log_threshold": state})
    frequencies = fired.mean(0)
    (wanted,) = torch.autograd.grad((2 * 0.3 / 0.2 * frequencies.detach() * frequencies).sum(), state)
    torch.testing.assert_close(found, wanted)
    assert (found < 0).any()


def test_with_l0_the_cost_of_a_firing_grows_with_the_frequency() -> None:
    out = cases.make("distiller", "jump_relu").train().forward_pass(cases.tokens(9), TARGETS)
    frequencies = out.firing_counts() / 9
    wanted = (0.3 * frequencies * (1 + frequencies / 0.1)).sum()
    torch.testing.assert_close((sd.L0(0.3)(out) + sd.Frequency(0.3, scale=0.1)(out)).float(), wanted)


@pytest.mark.parametrize("activation", [name for name in cases.ACTIVATIONS if "jump_relu" not in name])
def test_it_rejects_activations_whose_firing_has_no_gradient(activation: str) -> None:
    with pytest.raises(ValueError, match=r"must define a gradient for firing .* for Frequency"):
        sd.Frequency(0.1).check(cases.make("distiller", activation))


def test_it_lowers_the_largest_frequency_of_a_run() -> None:
    generator = torch.Generator().manual_seed(0)
    # One direction is present on nearly every token.
    x = torch.randn(8_000, 16, generator=generator) * 0.3
    x[:, 0] += 2 * torch.rand(8_000, generator=generator)
    largest = {}
    for name, extra in (("without", []), ("with", [sd.Frequency(1.0)])):
        sae = sd.SparseAutoencoder(
            16, 48, activation=sd.JumpReLU(), decoder_norm=sd.UnitNorm(), generator=torch.Generator().manual_seed(0)
        )
        penalties = [sd.L0(0.01), *extra]
        sd.fit(sae, x, n_tokens=60_000, batch_size=256, penalties=penalties, progress=False)
        largest[name] = float((sae.encode(x) > 0).float().mean(0).max())
    assert largest["with"] < 0.7 * largest["without"]


@pytest.mark.as_installed
def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"`scale` must lie in \(0\.0, inf\), got 0"):
        sd.Frequency(0.1, scale=0)
    with pytest.raises(ValueError, match="`coefficient` must lie in"):
        sd.Frequency(-1)
