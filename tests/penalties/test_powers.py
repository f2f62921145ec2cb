from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsedict as sd

amounts = st.floats(0, 1e4).map(lambda value: torch.tensor(value, dtype=torch.float64))


@given(amounts, st.floats(1e-8, 1.0))
def test_the_root_follows_its_formula(values: torch.Tensor, eps: float) -> None:
    torch.testing.assert_close(sd.Sqrt(1.0, eps).cost(values), (values + eps).sqrt() - eps**0.5, rtol=1e-6, atol=1e-9)


@given(amounts, st.floats(0.01, 1.0), st.floats(1e-8, 1.0))
def test_the_power_follows_its_formula(values: torch.Tensor, p: float, eps: float) -> None:
    torch.testing.assert_close(sd.Lp(1.0, p, eps).cost(values), (values + eps) ** p - eps**p, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("penalty", [sd.L1(1.0), sd.Sqrt(1.0), sd.Lp(1.0, 0.3), sd.Lp(1.0, 0.5, eps=1e-4)])
def test_zero_costs_exactly_nothing_in_every_precision(penalty: sd.L1, dtype: torch.dtype) -> None:
    assert not penalty.cost(torch.zeros(100, dtype=dtype)).any()


@pytest.mark.parametrize(("penalty", "slope"), [(sd.Sqrt(1.0, eps=1e-4), 50.0), (sd.Lp(1.0, 0.5, eps=1e-4), 50.0)])
def test_the_slope_at_zero_is_finite(penalty: sd.Sqrt, slope: float) -> None:
    values = torch.zeros((), requires_grad=True)
    penalty.cost(values).backward()
    assert float(values.grad) == pytest.approx(slope)


def test_a_half_power_is_the_root() -> None:
    values = torch.rand(50)
    torch.testing.assert_close(sd.Lp(1.0, 0.5).cost(values), sd.Sqrt(1.0).cost(values))
    torch.testing.assert_close(sd.Lp(1.0, 1.0).cost(values), sd.L1(1.0).cost(values))


def test_l1_counts_negative_values_too() -> None:
    assert sd.L1(1.0).cost(torch.tensor([-2.0, 3.0])).tolist() == [2, 3]
