"""A model of two layers, and a setting that takes seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from tests.residual import Residual
from torch import Tensor, nn

from examples.report import SKETCH, Experiment, Setting

N_VOCABULARY = 20


class Model(nn.Module):
    """Next-token logits from the token alone."""

    def __init__(self, d: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(N_VOCABULARY, d)
        mlps = [nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d)) for _ in range(2)]
        self.blocks = nn.Sequential(*map(Residual, mlps))
        self.head = nn.Linear(d, N_VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.blocks(self.embedding(ids)))


def setting_of(**changes: object) -> Setting:
    """A setting of seconds, with changes."""
    trainings = {
        name: dataclasses.replace(getattr(SKETCH, name), n_tokens=512, batch_size=64)
        for name in ("report", "modern", "wide")
    }
    small = {
        "n_harvested": 512,
        "n_held_out": 256,
        "n_loss_tokens": 64,
        "expansion": 1,
        "expansions": (1, 2),
        "coefficients": (0.001, 0.03, 1.0),
        "coefficient": 0.001,
        "counts": (2, 4),
        "n_toy_steps": 5,
        "n_seeds": 2,
    }
    return dataclasses.replace(SKETCH, **{**small, **trainings, **changes})


def experiment_of(
    folder: Path | None = None,
    *,
    seed: int = 0,
    setting: Setting | None = None,
    exclude_tokens: Sequence[int] = (),
) -> Experiment:
    """A experiment of the model."""
    ids = torch.randint(N_VOCABULARY, (80, 16), generator=torch.Generator().manual_seed(1))
    return Experiment.from_model(
        Model().eval(),
        ids[:50],
        ids[50:],
        setting or setting_of(),
        path="blocks.{}.mlp",
        folder=folder,
        seed=seed,
        exclude_tokens=exclude_tokens,
        progress=False,
    )
