from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cases
import sparsedict as sd

SILENT = torch.tensor([1, 4, 5])
IDLE = torch.zeros(cases.N_LATENTS, dtype=torch.int64).index_fill_(0, SILENT, 100)
LOUD = IDLE == 0


def passed_with(idle: Tensor, kind: str = "autoencoder", activation: str = "top_1") -> sd.ForwardPass:
    dictionary = cases.make(kind, activation).train()
    x = cases.tokens(9)
    targets = torch.randn(9, dictionary.d_out, dtype=torch.float64)
    return dictionary.forward_pass(x, targets, idle=idle)


def gradients(penalty: sd.AuxK, passed: sd.ForwardPass) -> dict[str, Tensor]:
    named = dict(passed.dictionary.named_parameters())
    found = torch.autograd.grad(penalty(passed), list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(weight) if gradient is None else gradient
        for (name, weight), gradient in zip(named.items(), found, strict=True)
    }


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_value_and_gradient_follow_the_formula(kind: str, k: int) -> None:
    passed = passed_with(IDLE, kind)
    dictionary, penalty = passed.dictionary, sd.AuxK(k=k, idle_tokens=100, coefficient=0.5)
    weights = {name: value.detach().clone().requires_grad_() for name, value in dictionary.named_parameters()}
    inputs = cases.KINDS[kind].encoder_inputs(weights, passed.inputs).detach()
    pre = (inputs @ weights["encoder"].T + weights["encoder_bias"])[:, SILENT]
    bound = pre.sort(dim=-1, descending=True).values[:, min(k, len(SILENT)) - 1 :][:, :1]
    latents = torch.where(pre >= bound, pre.relu(), torch.zeros_like(pre))
    missing = (passed.targets - passed.reconstruction).detach()
    wanted = 0.5 * (missing - latents @ weights["decoder"][SILENT]).square().sum() / 9
    torch.testing.assert_close(penalty(passed), wanted)
    wanted.backward()
    for name, gradient in gradients(penalty, passed).items():
        reference = weights[name].grad
        torch.testing.assert_close(gradient, torch.zeros_like(gradient) if reference is None else reference)


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("activation", ["relu", "top_k", "batch_top_k", "jump_relu"])
def test_the_gradient_reaches_silent_latents_alone(kind: str, activation: str) -> None:
    found = gradients(sd.AuxK(k=5, idle_tokens=100), passed_with(IDLE, kind, activation))
    for name in ("encoder", "encoder_bias", "decoder"):
        gradient = found.pop(name)
        assert not gradient[LOUD].any(), name
        assert gradient[SILENT].any(), name
    assert not any(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("kind", cases.KINDS)
def test_without_silent_latents_there_is_nothing(kind: str) -> None:
    penalty = sd.AuxK(idle_tokens=101)
    passed = passed_with(IDLE, kind)
    assert penalty(passed).item() == 0
    assert not any(gradient.any() for gradient in gradients(penalty, passed).values())


def test_latents_that_have_just_been_made_are_not_silent() -> None:
    dictionary = cases.make().train()
    passed = dictionary.forward_pass(cases.tokens(9), torch.ones(9, cases.D_OUT, dtype=torch.float64))
    assert sd.AuxK(idle_tokens=1)(passed).item() == 0


def test_all_latents_may_be_silent() -> None:
    passed = passed_with(torch.full((cases.N_LATENTS,), 10**9))
    assert gradients(sd.AuxK(k=cases.N_LATENTS), passed)["encoder"].any(dim=-1).all()


def test_k_defaults_to_half_the_width_of_the_output() -> None:
    passed = passed_with(IDLE, "distiller")
    torch.testing.assert_close(sd.AuxK(idle_tokens=100)(passed), sd.AuxK(cases.D_OUT // 2, idle_tokens=100)(passed))


@pytest.mark.as_installed
def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        sd.AuxK(0)
    with pytest.raises(ValueError, match="`idle_tokens` must be at least 1, got 0"):
        sd.AuxK(idle_tokens=0)
    with pytest.raises(ValueError, match=r"`coefficient` must lie in \[0\.0, inf\), got -1"):
        sd.AuxK(coefficient=-1)


def test_an_output_in_another_scale_than_the_decoder_s_is_refused() -> None:
    with pytest.raises(ValueError, match=r"InputLayerNorm\(eps=1e-05\) puts the output into another scale"):
        sd.Trainee(cases.make("autoencoder_layer_norm"), penalties=[sd.AuxK()])
    sd.Trainee(cases.make("distiller_layer_norm"), penalties=[sd.AuxK()])
