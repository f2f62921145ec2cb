"""A run whose error grows again ends with a warning."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pytest
import torch

import sparsedict as sd
from sparsedict.training import Schedule


@dataclass(frozen=True)
class LateRise(Schedule):
    """A thousandth of the peak in the first three quarters of a run, and then the peak."""

    warm_up: float = 0.0

    def decay(self, progress: float) -> float:
        return 1.0 if progress > 0.75 else 1e-3


def train(lr: float) -> float:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 8, generator=generator)
    sae = sd.SparseAutoencoder(8, 32, activation=sd.TopK(4), decoder_norm=sd.UnitNorm(), generator=generator)
    options = {"n_tokens": 20_480, "batch_size": 128, "log_every": 4, "progress": False}
    return sd.fit(sae, x, lr=lr, schedule=LateRise(), **options).last.fvu


def test_divergence_gives_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"the dictionary diverged: the FVU was 0\.\d+ at step .*the largest was 1\."):
        assert train(1.0) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(0.02) < 0.5
