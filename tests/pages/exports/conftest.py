from __future__ import annotations

import pytest
import torch

import sparsedict as sd
from sparsedict.analysis import LatentRecords

TEXTS = ["a", " the", "<0xE2>", "\ud800", "\n", '"<b>&', "\N{HEBREW LETTER ALEF}", "x", "y", "z"]


def strings(ids):
    return [TEXTS[i % len(TEXTS)] for i in ids]


def logits(latents: list[int]) -> torch.Tensor:
    """Latent i promotes token i most, and suppresses token i + 1 most."""
    made = torch.zeros(len(latents), 20)
    for row, latent in enumerate(latents):
        made[row] = torch.linspace(-0.1, 0.1, 20)
        made[row, latent % 20], made[row, (latent + 1) % 20] = 2.0, -3.0
    return made


@pytest.fixture(scope="session")
def records() -> LatentRecords:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(20, 8),
        torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8)),
        torch.nn.Linear(8, 20),
    )
    site = sd.Site(model, "1")
    sae = sd.SparseAutoencoder(8, 24, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    with torch.no_grad():
        sae.encoder[7] = 0
        sae.encoder_bias[7] = -1  # never fires
    tokens = torch.randint(20, (60, 16))
    return sd.analysis.collect(site, {"sae": sae}, tokens, n_quantiles=5, n_per_quantile=2, progress=False)["sae"]
