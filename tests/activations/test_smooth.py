from __future__ import annotations

import pytest
import torch

import sparsedict as sd


@pytest.mark.parametrize("activation", [sd.GELU(), sd.GELU(approximate="tanh"), sd.SiLU()])
def test_their_support_is_full_and_their_derivative_true(activation: sd.Activation) -> None:
    pre = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert activation.support(pre.detach(), {}, training=True) is None
    assert torch.autograd.gradcheck(lambda pre: activation.values(pre, {}), (pre,))


def test_the_two_gelus_differ() -> None:
    pre = torch.linspace(-3, 3, 50)
    assert not torch.allclose(sd.GELU().values(pre, {}), sd.GELU(approximate="tanh").values(pre, {}), atol=1e-5)
    assert sd.GELU() != sd.GELU(approximate="tanh")


@pytest.mark.as_installed
def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"`approximate` must be one of 'none', 'tanh', got 'fast'"):
        sd.GELU(approximate="fast")
