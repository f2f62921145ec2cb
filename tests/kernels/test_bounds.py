from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsedict.kernels._bounds import (
    OUTPUT_ROUNDING,
    Bounds,
    _floor,
    _in_order_,
    _positions_reaching_,
    bounds_are_faster,
)


@given(
    n_tokens=st.integers(1, 20),
    n_latents=st.integers(1, 40),
    d=st.integers(1, 70),
    outlier=st.sampled_from([0.0, 1.0, 1e3, 1e6]),
    offset=st.sampled_from([0.0, 1.0, 300.0]),
    seed=st.integers(0, 2**20),
)
def test_no_pre_activation_exceeds_its_bound_by_more_than_rounding(
    n_tokens: int, n_latents: int, d: int, outlier: float, offset: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n_tokens, d, generator=generator) + offset
    inputs[:, 0] += outlier * torch.randn(n_tokens, generator=generator)
    rows, bias = torch.randn(n_latents, d, generator=generator), 9 * torch.randn(n_latents, generator=generator)
    bounds = Bounds.from_rows(inputs, rows, bias)
    assert bounds is not None
    block = torch.empty(n_tokens, n_latents, dtype=torch.bfloat16)
    bounds.block(0, n_tokens, block)
    exact = torch.addmm(bias.double(), inputs.double(), rows.double().T)
    upper = block.double()
    assert (exact <= upper + upper.abs() * OUTPUT_ROUNDING).all()
    assert (exact >= upper - upper.abs() * OUTPUT_ROUNDING - bounds._slack.double()[:, None]).all()


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e-24, 1e-36])
@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0])
def test_bounds_hold_where_a_large_mean_and_the_bias_cancel(spread: float, scale: float) -> None:
    """What is left of the sums is then of the size of their rounding, and squares of small numbers vanish."""
    generator = torch.Generator().manual_seed(0)
    inputs = (300 * torch.rand(64, generator=generator) + spread * torch.randn(8, 64, generator=generator)) * scale
    rows = torch.randn(512, 64, generator=generator)
    bias = -(inputs[0].double() @ rows.double().T).float()
    bounds = Bounds.from_rows(inputs, rows, bias)
    assert bounds is not None
    block = torch.empty(8, 512, dtype=torch.bfloat16)
    bounds.block(0, 8, block)
    exact = torch.addmm(bias.double(), inputs.double(), rows.double().T)
    upper = block.double()
    assert (exact <= upper + upper.abs() * OUTPUT_ROUNDING).all()
    assert (exact >= upper - upper.abs() * OUTPUT_ROUNDING - bounds._slack.double()[:, None]).all()


def test_small_numbers_that_round_downwards_are_not_lost() -> None:
    # Each is a little more than a number in bfloat16, and the squares of what is lost are zero.
    inputs, rows = torch.full((2, 8), 1.0035e-20), torch.full((3, 8), 1.0035)
    inputs[1] = -inputs[0]
    bias = -(inputs[0].bfloat16().double() @ rows[0].bfloat16().double()).float().expand(3).clone()
    bounds = Bounds.from_rows(inputs, rows, bias)
    assert bounds is not None
    block = torch.empty(2, 3, dtype=torch.bfloat16)
    bounds.block(0, 2, block)
    assert (block[0] > 0).all()
    assert torch.addmm(bias.double(), inputs.double(), rows.double().T)[0].min() > 0


def test_there_are_none_where_sums_may_overflow() -> None:
    inputs, rows = torch.full((2, 4), 2e19), torch.tensor([[2e19] * 4, [-2e19] * 4])
    inputs[1] *= -1
    assert Bounds.from_rows(inputs, rows, torch.zeros(2)) is None


@given(st.lists(st.floats(allow_nan=False, width=32), min_size=2, max_size=9))
def test_bits_are_brought_into_the_order_of_their_numbers(numbers: list[float]) -> None:
    values = torch.tensor(numbers).bfloat16()
    keys = _in_order_(values.view(torch.int16).clone())
    assert torch.equal(values.float()[keys.long().argsort()], values.float().sort().values)
    assert torch.equal(_in_order_(keys), values.view(torch.int16))


@given(st.floats(-1e6, 1e6, width=32))
def test_a_threshold_is_rounded_down_to_its_neighbour(threshold: float) -> None:
    exact = torch.tensor(threshold)
    rounded = _floor(exact)
    assert rounded.dtype == torch.bfloat16
    assert rounded.float() <= exact
    assert torch.nextafter(rounded, torch.tensor(torch.inf, dtype=torch.bfloat16)).float() > exact


def test_non_finite_values_have_no_bounds() -> None:
    x, w, b = torch.ones(3, 4), torch.ones(5, 4), torch.ones(5)
    assert Bounds.from_rows(x, w, b) is not None
    for spoilt in range(3):
        inputs, rows, bias = parts = x.clone(), w.clone(), b.clone()
        parts[spoilt].view(-1)[2] = torch.nan
        assert Bounds.from_rows(inputs, rows, bias) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_bounds_are_for_float32_only(dtype: torch.dtype) -> None:
    assert not bounds_are_faster(torch.zeros(2048, 512, dtype=dtype), torch.zeros(8192, 512, dtype=dtype))
    assert not bounds_are_faster(torch.zeros(2, 8), torch.zeros(64, 8))


def test_every_number_is_compared_rightly_with_bounds_of_any_sign() -> None:
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    every = every[every.isfinite()]
    lowest = torch.tensor([-3e38, -1.5, -1e-40, -0.0, 0.0, 1e-40, 0.25, 3e38]).bfloat16()
    bits = every.view(torch.int16).expand(len(lowest), -1).clone()
    expected = (every.double() >= lowest.double()[:, None]).flatten().nonzero().flatten()
    assert torch.equal(_positions_reaching_(bits, lowest, None), expected)
