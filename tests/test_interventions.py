from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sparsedict as sd


@st.composite
def latents(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    return torch.randn(*shape, 5, generator=torch.Generator().manual_seed(draw(st.integers(0, 999))))


masks = st.lists(st.booleans(), min_size=5, max_size=5).map(torch.tensor)
MEANS = torch.arange(5.0) + 10


@given(latents(), masks)
def test_ablation_sets_the_chosen_latents_and_leaves_the_rest(x: Tensor, mask: Tensor) -> None:
    before = x.clone()
    for means, wanted in ((None, torch.zeros(5)), (MEANS, MEANS)):
        ablated = sd.Ablation(mask, means)(x)
        assert torch.equal(ablated[..., ~mask], x[..., ~mask])
        assert torch.equal(ablated[..., mask], wanted[mask].expand(*x.shape[:-1], -1))
    assert torch.equal(x, before)


@given(latents())
def test_doing_nothing_is_the_identity(x: Tensor) -> None:
    for nothing in (
        sd.Ablation(torch.zeros(5, dtype=torch.bool), MEANS),
        sd.Clamp({}),
        sd.Steer({}),
        sd.Steer({2: 0.0}),
    ):
        assert torch.equal(nothing(x), x)


@given(latents())
def test_clamp_holds_and_steer_adds(x: Tensor) -> None:
    before = x.clone()
    clamped, steered = sd.Clamp({0: 2.0, 4: -1.0})(x), sd.Steer({0: 2.0, 4: -1.0})(x)
    assert (clamped[..., 0] == 2).all()
    assert (clamped[..., 4] == -1).all()
    assert torch.equal(clamped[..., 1:4], x[..., 1:4])
    assert torch.equal(steered, x + torch.tensor([2.0, 0, 0, 0, -1.0]))
    assert torch.equal(x, before)


def test_gradients_flow_through_latents_left_alone() -> None:
    x = torch.ones(2, 5, requires_grad=True)
    sd.Steer({1: 3.0})(sd.Clamp({0: 1.0})(sd.Ablation(torch.tensor([False] * 4 + [True]), MEANS)(x))).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 1, 1, 1, 0]] * 2


def test_the_type_of_the_latents_is_kept() -> None:
    x = torch.ones(2, 5, dtype=torch.bfloat16)
    for intervention in (sd.Ablation(torch.ones(5, dtype=torch.bool), MEANS), sd.Clamp({0: 1.5}), sd.Steer({0: 1.5})):
        assert intervention(x).dtype == torch.bfloat16


@pytest.mark.as_installed
def test_bad_input_is_named() -> None:
    mask = torch.ones(5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"`latents` must be a mask of dtype bool .*got torch\.float32 \(5,\)"):
        sd.Ablation(torch.ones(5))
    with pytest.raises(ValueError, match=r"`latents` must be a mask of dtype bool .*got torch\.bool \(1, 5\)"):
        sd.Ablation(mask[None])
    with pytest.raises(TypeError, match=r"`latents` must be a mask.*got list"):
        sd.Ablation([True] * 5)
    with pytest.raises(ValueError, match=r"`means` must have the mask's shape \(5,\), got \(4,\)"):
        sd.Ablation(mask, MEANS[:4])
    with pytest.raises(
        ValueError,
        match=r"`latents` must have 5 entries in the last dimension, .* got 4",
    ):
        sd.Ablation(mask)(torch.zeros(2, 4))
    for intervention in (sd.Clamp({5: 1.0}), sd.Steer({5: 1.0})):
        with pytest.raises(IndexError, match=r"`latent` must lie in \[0, 5\), got 5"):
            intervention(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="`values` must be at least 0, got -1"):
        sd.Clamp({-1: 1.0})


@pytest.mark.as_installed
def test_interventions_without_a_mapping_raise() -> None:
    with pytest.raises(TypeError, match=r"`values` must map indices of latents to numbers, .* got \[1\]"):
        sd.Clamp([1])
    with pytest.raises(TypeError, match="`amounts` must map indices of latents to numbers"):
        sd.Steer([1])
