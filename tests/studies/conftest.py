from __future__ import annotations

import pytest
import torch

from sparsedict import Site, TopK
from sparsedict.studies import Decomposition, Inspection, decompose, recipes

INSPECTION = Inspection(n_evaluation_tokens=64, n_firing_tokens=300)


def model_of() -> torch.nn.Module:
    torch.manual_seed(0)
    mlp = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.GELU(), torch.nn.Linear(12, 6))
    return torch.nn.Sequential(torch.nn.Embedding(20, 6), mlp, torch.nn.Linear(6, 20)).eval()


@pytest.fixture(scope="session")
def site() -> Site:
    return Site(model_of(), "1")


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    return torch.randint(20, (60, 16), generator=torch.Generator().manual_seed(0))


def run(site: Site, tokens: torch.Tensor, **options: object) -> Decomposition:
    given = {"recipes": recipes(TopK(4)), "batch_size": 64, "inspection": INSPECTION, "progress": False, **options}
    return decompose(site, tokens[:40], tokens[40:], n_latents=24, n_tokens=640, **given)


@pytest.fixture(scope="session")
def taken(site: Site, tokens: torch.Tensor) -> Decomposition:
    return run(site, tokens)
