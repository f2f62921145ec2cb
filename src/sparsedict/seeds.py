"""Random generators identified by a seed and a key. Each can be recreated without replaying earlier draws."""

from __future__ import annotations

import numpy as np
import torch

from sparsedict import checks


def generator(seed: int, *key: int) -> torch.Generator:
    """Returns a CPU generator that depends only on the seed and the key."""
    state = np.random.SeedSequence([checks.at_least("seed", seed, 0), *key]).generate_state(2, np.uint32)
    # Bit 63 stays clear, since torch accepts seeds up to 2**63.
    return torch.Generator(device="cpu").manual_seed((int(state[0]) << 31) ^ int(state[1]))


def permutation(n: int, seed: int, *key: int) -> torch.Tensor:
    """Returns a permutation of ``n`` entries that depends only on the seed and the key."""
    return torch.randperm(n, generator=generator(seed, *key), device="cpu")
