from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cases
import sparsedict as sd

TARGETS = torch.zeros(9, cases.D_OUT, dtype=torch.float64)


def formula(dictionary: sd.Dictionary, threshold: Tensor, only: Tensor) -> Tensor:
    missing = (threshold - dictionary.pre_activations(cases.tokens(9))).relu()
    return 0.3 * (missing * only * dictionary.decoder_norms()).sum() / 9


@pytest.mark.parametrize("kind", ["distiller_bias_skip", "autoencoder", "cross_layer"])
@pytest.mark.parametrize("activation", ["jump_relu", "jump_relu_raw"])
@pytest.mark.parametrize("dead_after", [None, 5])
def test_value_and_gradients_follow_the_formula(kind: str, activation: str, dead_after: int | None) -> None:
    dictionary = cases.make(kind, activation, "free").train()
    since = torch.arange(cases.N_LATENTS)
    targets = torch.zeros(9, dictionary.d_out, dtype=torch.float64)
    out = dictionary.forward_pass(cases.tokens(9), targets, tokens_since_fired=since)
    threshold = dictionary.activation.thresholds(dictionary.activation_state.entries())
    assert threshold is not None
    only = torch.ones(cases.N_LATENTS) if dead_after is None else (since >= 5).double()
    actual, wanted = sd.PreActivation(0.3, dead_after=dead_after)(out), formula(dictionary, threshold, only)
    torch.testing.assert_close(actual, wanted)
    leaves = list(dictionary.parameters())
    slopes = (torch.autograd.grad(v, leaves, allow_unused=True, retain_graph=True) for v in (actual, wanted))
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(
            torch.zeros(()) if ours is None or not ours.any() else ours,
            torch.zeros(()) if theirs is None or not theirs.any() else theirs,
        )


def test_it_revives_latents_far_below_their_threshold() -> None:
    x = torch.randn(2_000, 8, generator=torch.Generator().manual_seed(0))
    dead = {}
    for name, extra in (("without", []), ("with", [sd.PreActivation(0.05, dead_after=1_000)])):
        sae = sd.SparseAutoencoder(
            8, 32, activation=sd.JumpReLU(), decoder_norm=sd.UnitNorm(), generator=torch.Generator().manual_seed(0)
        )
        sae.initialise_(x, x)
        with torch.no_grad():
            sae.encoder_bias[:16] = -20.0
        sd.fit(sae, x, n_tokens=60_000, batch_size=200, penalties=[sd.L0(0.01), *extra], progress=False)
        dead[name] = int(((sae.encode(x) > 0).sum(0) == 0).sum())
    assert dead["without"] >= 16
    assert dead["with"] <= 2


@pytest.mark.parametrize("activation", ["relu", "top_k", "batch_top_k", "gelu"])
def test_it_requires_thresholds(activation: str) -> None:
    with pytest.raises(ValueError, match=r"must have thresholds \(`Activation\.thresholds`\) for PreActivation"):
        sd.PreActivation(0.1).check(cases.make("distiller", activation))
