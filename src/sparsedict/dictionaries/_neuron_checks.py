"""Checks of an MLP's neurons, and the activation part that equals their activation function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsedict.activations import GELU, Activation, ReLU, SiLU


def check_neurons(neurons: Any) -> None:
    """Raises ``TypeError`` unless an object has the weights and the activation of neurons."""
    weights = [getattr(neurons, name, None) for name in ("encoder", "decoder")]
    if not all(isinstance(own, Tensor) and own.ndim == 2 for own in weights) or not callable(
        getattr(neurons, "activation", None)
    ):
        hint = " Pass `site.neurons`." if hasattr(neurons, "capture") else ""
        raise TypeError(f"`neurons` must be Neurons, such as `site.neurons`, got {type(neurons).__name__}.{hint}")


def matching_activation(function: Any) -> Activation:
    """Returns the activation part that equals a function on a grid of values."""
    grid = torch.linspace(-6, 6, 241, dtype=torch.float64, device="cpu")
    try:
        wanted = function(grid)
    except RuntimeError:
        grid = grid.float()
        wanted = function(grid)
    for part in (ReLU(), GELU(), GELU(approximate="tanh"), SiLU()):
        if torch.allclose(part.values(grid, {}), wanted, rtol=0, atol=1e-5):
            return part
    raise ValueError(
        f"`neurons.activation` must be ReLU, GELU or SiLU, got {function!r}. Use `site.replaced(site.neurons)` instead."
    )
