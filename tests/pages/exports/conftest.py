from __future__ import annotations

import pytest
import torch

import sparsedict as sd
from sparsedict.analysis import LatentRecords, TokenEffects

TEXTS = ["a", " the", "<0xE2>", "\ud800", "\n", '"<b>&', "\N{HEBREW LETTER ALEF}", "x", "y", "z"]


def strings(ids):
    return [TEXTS[i % len(TEXTS)] for i in ids]


def effects(n_latents: int = 24) -> TokenEffects:
    """Latent i promotes token i most, and suppresses token i + 1 most."""
    latents = torch.arange(n_latents)[:, None]
    rest = torch.tensor([[2, 3]]).expand(n_latents, -1)
    values = torch.tensor([[2.0, 0.1, 0.1]]).expand(n_latents, -1)
    return TokenEffects(torch.cat([latents, rest], 1), values, torch.cat([latents + 1, rest], 1), -1.5 * values, None)


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
