"""A small model of residual MLPs, for tests of dictionaries over several layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import sparsedict as sd


class Residual(nn.Module):
    """Adds the output of an MLP to its input."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


def sites_of_residual_mlps(n_layers: int, *, d: int, d_hidden: int = 16, n_vocabulary: int = 20) -> sd.Sites:
    """Returns the MLPs of a model with ReLU, named ``"0"``, ``"1"`` and so on."""
    torch.manual_seed(0)
    embedding = nn.Embedding(n_vocabulary, d)
    blocks = [
        Residual(nn.Sequential(nn.Linear(d, d_hidden), nn.ReLU(), nn.Linear(d_hidden, d))) for _ in range(n_layers)
    ]
    model = nn.Sequential(embedding, *blocks, nn.Linear(d, n_vocabulary))
    return sd.Sites(model, {str(layer): f"{layer + 1}.mlp" for layer in range(n_layers)})
