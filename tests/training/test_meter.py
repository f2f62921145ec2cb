"""The sums of measurements of training steps."""

import pytest
import torch

from sparsedict.training._meter import ROWS, _column_sums


@pytest.mark.parametrize("n_rows", [0, 1, ROWS, ROWS + 5, 64 * ROWS])
def test_column_sums_are_those_in_double_precision(n_rows: int):
    values = 100 + torch.randn(n_rows, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(_column_sums(values), values.double().sum(0), rtol=1e-6, atol=0)


def test_a_mean_far_from_zero_leaves_the_variance_right():
    values = 100 + torch.randn(4096, 16, generator=torch.Generator().manual_seed(0))
    exact = values.double()
    spread = exact.square().sum() - _column_sums(values).square().sum() / len(values)
    torch.testing.assert_close(spread, (exact - exact.mean(0)).square().sum(), rtol=1e-4, atol=0)
