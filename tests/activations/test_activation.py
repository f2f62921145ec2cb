"""What every activation keeps."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

import cases
import sparsedict as sd

every_activation = pytest.mark.parametrize("name", cases.ACTIVATIONS)


def state_of(activation: sd.Activation, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    state = {name: value.detach().to(dtype) for name, value in activation.initial_state(cases.N_LATENTS).items()}
    given = {name for name in state if name.startswith("threshold")}
    return {name: torch.full_like(value, cases.THRESHOLD) if name in given else value for name, value in state.items()}


def pre_activations(n_tokens: int = 20) -> Tensor:
    pre = torch.randn(n_tokens, cases.N_LATENTS, dtype=torch.float64)
    pre[1] = pre[1].abs() + 3
    pre[2] = -pre[2].abs() - 3
    pre[3] = 0
    return pre


@every_activation
@pytest.mark.parametrize("training", [False, True])
def test_entries_outside_the_support_have_neither_value_nor_gradient(name: str, training: bool) -> None:
    case = cases.ACTIVATIONS[name]
    pre = pre_activations().requires_grad_()
    state = state_of(case.activation)
    latents = case.reference(pre, state, training)
    (slope,) = torch.autograd.grad(latents.sum(), pre)
    support = case.activation.support(pre.detach(), state, training=training)
    stored = torch.zeros_like(pre, dtype=torch.bool)
    if support is None:
        stored[:] = True
    else:
        stored[support.tokens, support.latents] = True
    assert not latents[~stored].any()
    assert not slope[~stored].any()


@every_activation
def test_parts_are_values(name: str) -> None:
    activation = cases.ACTIVATIONS[name].activation
    again = copy.deepcopy(activation)
    assert again == activation
    assert hash(again) == hash(activation)
    assert repr(again) == repr(activation)
    assert pickle.loads(pickle.dumps(activation)) == activation
    field = next(iter(vars(activation)), "k")
    with pytest.raises(AttributeError):
        setattr(activation, field, 1)


@every_activation
def test_two_dictionaries_may_share_a_part(name: str) -> None:
    first, second = cases.make("distiller", name), cases.make("distiller", name)
    assert first.activation is second.activation
    for value in first.activation_state.entries().values():
        with torch.no_grad():
            value.add_(1)
    for ours, theirs in zip(
        first.activation_state.entries().values(), second.activation_state.entries().values(), strict=True
    ):
        assert not torch.equal(ours, theirs)


@every_activation
def test_firing_is_one_where_a_latent_is_not_zero(name: str) -> None:
    case = cases.ACTIVATIONS[name]
    pre, state = pre_activations(), state_of(case.activation)
    fires = case.activation.firing(pre, state)
    assert torch.equal(fires, (case.activation.values(pre, state) != 0).to(pre.dtype))


@every_activation
def test_latents_are_negative_only_where_the_activation_allows(name: str) -> None:
    dictionary = cases.make("distiller", name)
    is_negative = bool((dictionary.encode(cases.tokens(30)) < 0).any())
    assert is_negative == (not dictionary.activation.non_negative)


@every_activation
def test_a_token_s_latents_depend_on_its_batch_only_where_the_name_indicates(name: str) -> None:
    dictionary = cases.make("distiller", name).train()
    x = cases.tokens(30)[3:]
    whole = dictionary.encode(x)
    alone = torch.stack([dictionary.encode(row) for row in x])
    if not name.startswith("batch"):
        torch.testing.assert_close(whole, alone)
    else:
        assert not torch.allclose(whole, alone)
