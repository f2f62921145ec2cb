from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsedict.kernels._bounds import OUTPUT_ROUNDING, Bounds, _floor, bounds_pay


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
    bounds = Bounds.of(inputs, rows, bias)
    assert bounds is not None
    block = torch.empty(n_tokens, n_latents, dtype=torch.bfloat16)
    bounds.block(0, n_tokens, block)
    exact = torch.addmm(bias.double(), inputs.double(), rows.double().T)
    upper = block.double()
    assert (exact <= upper + upper.abs() * OUTPUT_ROUNDING).all()
    assert (exact >= upper - upper.abs() * OUTPUT_ROUNDING - bounds._slack.double()[:, None]).all()


@given(st.floats(-1e6, 1e6, width=32))
def test_a_threshold_is_rounded_down_to_its_neighbour(threshold: float) -> None:
    exact = torch.tensor(threshold)
    rounded = _floor(exact)
    assert rounded.dtype == torch.bfloat16
    assert rounded.float() <= exact
    assert torch.nextafter(rounded, torch.tensor(torch.inf, dtype=torch.bfloat16)).float() > exact


def test_there_are_none_of_what_is_not_finite() -> None:
    x, w, b = torch.ones(3, 4), torch.ones(5, 4), torch.ones(5)
    assert Bounds.of(x, w, b) is not None
    for spoilt in range(3):
        parts = [x.clone(), w.clone(), b.clone()]
        parts[spoilt].view(-1)[2] = torch.nan
        assert Bounds.of(*parts) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_they_serve_float32_alone(dtype: torch.dtype) -> None:
    assert not bounds_pay(torch.zeros(2048, 512, dtype=dtype), torch.zeros(8192, 512, dtype=dtype))
    assert not bounds_pay(torch.zeros(2, 8), torch.zeros(64, 8))
