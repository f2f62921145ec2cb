from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import cases
import sparsedict as sd


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
