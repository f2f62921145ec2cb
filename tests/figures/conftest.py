from __future__ import annotations

import pytest
import torch

from sparsedict.analysis import FiringFrequencies, LatentTypes, NeuronMatch, latent_types, match_neurons

N_LATENTS, N_SIMULATORS, N_DEAD = 60, 12, 7


@pytest.fixture
def match(generator: torch.Generator) -> NeuronMatch:
    neurons = torch.randn(20, 16, generator=generator)
    rows = torch.randn(N_LATENTS, 16, generator=generator)
    rows[:N_SIMULATORS] = neurons[:N_SIMULATORS]
    return match_neurons((torch.randn(N_LATENTS, 16, generator=generator), rows), (neurons, neurons))


@pytest.fixture
def firing(generator: torch.Generator) -> FiringFrequencies:
    counts = torch.randint(1, 900, (N_LATENTS,), generator=generator)
    counts[-N_DEAD:] = 0
    return FiringFrequencies(counts, 1000)


@pytest.fixture
def types(match: NeuronMatch, firing: FiringFrequencies) -> LatentTypes:
    return latent_types(match, dead=firing.dead)
