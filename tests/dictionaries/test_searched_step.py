"""A step whose entries are searched for, in dictionaries wide enough to be searched, against dense arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sparsedict as sd
from sparsedict.dictionaries import _encode
from sparsedict.kernels import _select

D_IN, D_OUT = 16, 9
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks a step, and sparse products however many entries are stored."""
    monkeypatch.setattr(_select, "BLOCK_BYTES", 1)
    monkeypatch.setattr(_select, "MIN_BLOCK_TOKENS", 16)
    monkeypatch.setattr(_encode, "DENSE_SHARE", 1.0)


def bound_always(inputs: Tensor, rows: Tensor) -> bool:
    return inputs.dtype == torch.float32


DRAWN = {
    "rule": st.sampled_from([sd.TopK, sd.BatchTopK, sd.ReLU]),
    "k": st.integers(1, 6),
    "n_latents": st.sampled_from([20, 97, 160, 300, 512]),
    "n_tokens": st.integers(1, 40),
    "dtype": st.sampled_from(list(TOLERANCE)),
    "skip": st.booleans(),
    "shift": st.sampled_from([-8.0, -1.0, 0.0, 1.0]),
    "share_equal": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    "n_zero": st.integers(0, 2),
    "seed": st.integers(0, 2**20),
}


def made(
    rule: type[sd.Activation],
    k: int,
    n_latents: int,
    n_tokens: int,
    dtype: torch.dtype,
    skip: bool,
    shift: float,
    share_equal: float,
    n_zero: int,
    seed: int,
) -> tuple[sd.SparseDistiller, Tensor, Tensor]:
    """A dictionary, inputs and targets: some rows are equal, some zero, as some tokens are; biases are shifted."""
    generator = torch.Generator().manual_seed(seed)
    activation = sd.ReLU() if rule is sd.ReLU else rule(k)
    parts = {"activation": activation, "decoder_norm": sd.UnitNorm(), "dtype": dtype, "generator": generator}
    dictionary = sd.SparseDistiller(D_IN, D_OUT, n_latents, skip=skip, **parts).train()
    inputs = torch.randn(n_tokens, D_IN, generator=generator, dtype=dtype)
    n_equal = int(share_equal * n_latents)
    with torch.no_grad():
        dictionary.encoder_bias.normal_(shift, generator=generator)
        dictionary.encoder[:n_equal] = dictionary.encoder[:1]
        dictionary.encoder_bias[:n_equal] = dictionary.encoder_bias[:1]
        dictionary.encoder[n_latents - n_zero :] = 0
        inputs[n_tokens - n_zero :] = 0
    return dictionary, inputs, torch.randn(n_tokens, D_OUT, generator=generator, dtype=dtype)


def densely(dictionary: sd.SparseDistiller, inputs: Tensor, stored: Tensor) -> tuple[Tensor, Tensor]:
    """Pre-activations and outputs by dense products, of the latents in a mask."""
    pre = inputs @ dictionary.encoder.T + dictionary.encoder_bias
    output = torch.where(stored, pre.relu(), 0.0) @ dictionary.decoder + dictionary.decoder_bias
    return pre, output if dictionary.skip is None else output + inputs @ dictionary.skip.T


def assert_chosen(activation: sd.Activation, pre: Tensor, stored: Tensor, tolerance: float) -> None:
    """What is left out is nowhere larger than what is stored beyond rounding, nor is it too little or too much."""
    if isinstance(activation, sd.ReLU):
        assert (stored == (pre > 0))[pre.abs() > tolerance].all()
        return
    largest_left, smallest = pre.masked_fill(stored, -torch.inf), pre.masked_fill(~stored, torch.inf)
    assert isinstance(activation, sd.TopK | sd.BatchTopK)
    if isinstance(activation, sd.TopK):
        assert (stored.sum(1) == activation.k).all()
        assert (largest_left.amax(1) <= smallest.amin(1) + tolerance).all()
        return
    n_wanted = activation.k * len(pre)
    assert int(stored.sum()) == min(n_wanted, int((pre > 0).sum()))
    assert float(largest_left.amax().clamp_min(0)) <= float(smallest.amin()) + tolerance


@pytest.mark.parametrize("bounded", [False, True])
@given(**DRAWN)
def test_a_searched_step_is_the_dense_one(bounded: bool, **drawn: Any) -> None:
    dictionary, inputs, targets = made(**drawn)
    tolerance = TOLERANCE[inputs.dtype]
    leaves = [inputs.requires_grad_(), *dictionary.parameters()]
    with pytest.MonkeyPatch.context() as patch:
        if bounded:
            patch.setattr(_select, "bounds_are_faster", bound_always)
        out = dictionary.forward_pass(inputs, targets)
    assert out.encoding.support is not None
    support = out.encoding.support
    stored = torch.zeros(len(inputs), dictionary.n_latents, dtype=torch.bool)
    stored[support.tokens, support.latents] = True
    assert int(stored.sum()) == support.n_entries

    pre, output = densely(dictionary, inputs, stored)
    scale = 1 + float(pre.detach().abs().max())
    assert_chosen(dictionary.activation, pre.detach(), stored, tolerance * scale)
    torch.testing.assert_close(out.reconstruction, output, rtol=tolerance, atol=tolerance * scale)
    actual = torch.autograd.grad(sd.SquaredError()(out), leaves, allow_unused=True)
    wanted = torch.autograd.grad((output - targets).square().sum() / len(inputs), leaves, allow_unused=True)
    for found, expected in zip(actual, wanted, strict=True):
        assert found is not None
        assert expected is not None
        largest = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found, expected, rtol=0, atol=20 * tolerance * largest)
