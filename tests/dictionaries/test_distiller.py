from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import cases
import sparsedict as sd


def neurons(function: Any, *, biases: bool = True, dtype: torch.dtype = torch.float64, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(
        encoder=torch.randn(20, 6, dtype=dtype),
        encoder_bias=torch.randn(20, dtype=dtype) if biases else None,
        decoder=torch.randn(20, 5, dtype=dtype),
        decoder_bias=torch.randn(5, dtype=dtype) if biases else None,
        activation=function,
        gate=None,
        **more,
    )


@pytest.mark.parametrize(
    ("function", "activation"),
    [
        (torch.relu, sd.ReLU()),
        (nn.ReLU(), sd.ReLU()),
        (functional.gelu, sd.GELU()),
        (nn.GELU(), sd.GELU()),
        (nn.GELU(approximate="tanh"), sd.GELU(approximate="tanh")),
        (lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))), sd.GELU("tanh")),
        (functional.silu, sd.SiLU()),
        (nn.SiLU(), sd.SiLU()),
    ],
)
@pytest.mark.parametrize("biases", [False, True])
def test_a_distiller_from_neurons_gives_their_outputs(function: Any, activation: sd.Activation, biases: bool) -> None:
    mlp = neurons(function, biases=biases)
    distiller = sd.SparseDistiller.from_neurons(mlp)
    assert distiller.activation == activation
    assert distiller.decoder_norm == sd.Free()
    assert not distiller.training
    x = torch.randn(2, 30, 6, dtype=torch.float64)
    hidden = function(functional.linear(x, mlp.encoder, mlp.encoder_bias))
    output = hidden @ mlp.decoder + (mlp.decoder_bias if biases else 0)
    torch.testing.assert_close(distiller.encode(x), hidden)
    torch.testing.assert_close(distiller(x).reconstruction, output)
    assert torch.equal(distiller.encoder, mlp.encoder)
    with torch.no_grad():
        distiller.encoder.zero_()
    assert mlp.encoder.any(), "the model's own weights are left alone"


def test_the_neurons_type_is_kept() -> None:
    assert sd.SparseDistiller.from_neurons(neurons(torch.relu, dtype=torch.bfloat16)).encoder.dtype == torch.bfloat16


def test_gated_neurons_raise() -> None:
    mlp = neurons(functional.silu)
    mlp.gate = torch.randn(20, 6)
    with pytest.raises(ValueError, match=r"`neurons` must belong to an ungated MLP, got a gated MLP.*site\.replaced"):
        sd.SparseDistiller.from_neurons(mlp)


@pytest.mark.parametrize("function", [torch.tanh, torch.sigmoid, lambda x: x * torch.sigmoid(1.702 * x)])
def test_other_functions_raise(function: Any) -> None:
    with pytest.raises(ValueError, match=r"`neurons\.activation` must be ReLU, GELU or SiLU, got"):
        sd.SparseDistiller.from_neurons(neurons(function))


def test_skip_and_input_bias_start_at_zero() -> None:
    made = {
        asked: sd.SparseDistiller(
            6, 5, 12, activation=sd.ReLU(), decoder_norm=sd.UnitNorm(), input_bias=asked, skip=asked,
            generator=torch.Generator().manual_seed(1),
        )
        for asked in (False, True)
    }  # fmt: skip
    assert made[False].skip is None
    assert made[False].input_bias is None
    x = torch.randn(4, 6)
    assert torch.equal(made[True](x).reconstruction, made[False](x).reconstruction)


def test_the_skip_is_never_dropped() -> None:
    distiller = cases.make("distiller_bias_skip", "top_k")
    x = cases.tokens(9)
    skipped = x @ distiller.skip.T
    for latents in (distiller.encode(x), distiller.encode_sparse(x)):
        torch.testing.assert_close(distiller.reconstruct(latents, x), distiller.decode(latents) + skipped)
    torch.testing.assert_close(distiller(x).reconstruction - distiller.decode(distiller.encode(x)), skipped)


def test_transcoder_is_another_name_of_the_distiller() -> None:
    assert sd.Transcoder is sd.SparseDistiller
