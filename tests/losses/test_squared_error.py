from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import cases
import sparsedict as sd
from sparsedict.kernels import Workspace
from sparsedict.losses._squared_error import sum_of_squares


def test_it_is_summed_over_the_width_and_meant_over_tokens() -> None:
    targets = torch.randn(9, cases.D_OUT, dtype=torch.float64)
    out = cases.make().train().forward_pass(cases.tokens(9), targets)
    wanted = ((out.reconstruction - targets) ** 2).sum() / 9
    torch.testing.assert_close(sd.SquaredError()(out), wanted)
    perfect = replace(out, targets=out.reconstruction.detach())
    assert sd.SquaredError()(perfect).item() == 0


def test_it_applies_to_every_dictionary() -> None:
    sd.SquaredError().check(cases.make())
    assert sd.SquaredError() == sd.SquaredError()


@pytest.mark.as_installed
def test_shapes_that_would_broadcast_in_silence_raise() -> None:
    out = cases.make().train().forward_pass(cases.tokens(9), torch.zeros(9, cases.D_OUT, dtype=torch.float64))
    with pytest.raises(
        ValueError, match=r"`reconstruction` and `targets` must have the same shape, got .* and \(9, 1\)"
    ):
        sd.SquaredError()(replace(out, targets=out.targets[:, :1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n_tokens", [1, 700])
def test_in_the_memory_of_a_step_it_is_the_same(dtype: torch.dtype, n_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(n_tokens, 1024, generator=generator).to(dtype)
    found = []
    for workspace in (None, Workspace()):
        reconstruction = (targets + 1).requires_grad_()
        loss = sum_of_squares(reconstruction, targets, workspace)
        (3 * loss).backward()
        found.append((loss.detach(), reconstruction.grad))
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found[1], found[0], rtol=tolerance, atol=tolerance)


def test_a_sum_of_many_equal_squares_is_exact_in_float32() -> None:
    targets = torch.zeros(3000, 512)
    loss = sum_of_squares(torch.full_like(targets, 0.1).requires_grad_(), targets, Workspace())
    assert loss.item() == pytest.approx(3000 * 512 * float(torch.tensor(0.1)) ** 2, rel=1e-7)
