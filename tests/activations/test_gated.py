from __future__ import annotations

import torch

import sparsedict as sd


def test_a_new_gated_dictionary_starts_as_relu() -> None:
    parts = {"decoder_norm": sd.UnitNorm(), "generator": torch.Generator().manual_seed(3)}
    gated = sd.SparseAutoencoder(6, 12, activation=sd.Gated(), **parts)
    parts["generator"] = torch.Generator().manual_seed(3)
    plain = sd.SparseAutoencoder(6, 12, activation=sd.ReLU(), **parts)
    x = torch.randn(20, 6)
    assert torch.equal(gated(x).latents, plain(x).latents)


def test_the_gate_decides_whether_and_the_magnitude_how_strongly() -> None:
    state = {
        "gate_bias": torch.tensor([0.0, 0.0, -2.0]),
        "log_scale": torch.tensor([0.0, 1.0, 0.0]),
        "magnitude_bias": torch.tensor([-5.0, 0.5, 3.0]),
    }
    pre = torch.tensor([[1.0, 1.0, 1.0], [6.0, -1.0, 3.0]])
    values = sd.Gated().values(pre, state)
    torch.testing.assert_close(values, torch.tensor([[0.0, torch.e + 0.5, 0.0], [1.0, 0.0, 6.0]]))
    support = sd.Gated().support(pre, state, training=True)
    assert support.latents.tolist() == [0, 1, 0, 2]


def test_fit_trains_the_magnitudes() -> None:
    coder = sd.SparseAutoencoder(4, 8, activation=sd.Gated(), decoder_norm=sd.UnitNorm())
    x = torch.randn(512, 4)
    before = (coder(x).reconstruction - x).square().sum(-1).mean()
    sd.fit(coder, x, n_tokens=20_000, batch_size=128, lr=3e-3, progress=False)
    after = (coder(x).reconstruction - x).square().sum(-1).mean()
    assert after < 0.2 * before
    assert coder.activation_state.get_parameter("log_scale").abs().max() > 1e-3
