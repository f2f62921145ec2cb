"""Random generators named by what they are for, so that any of them can be made again without its history."""

from __future__ import annotations

import numpy as np
import torch

from sparsedict import checks


def generator(seed: int, *key: int) -> torch.Generator:
    """Returns a CPU generator that depends on the seed and the key alone."""
    state = np.random.SeedSequence([checks.at_least("seed", seed, 0), *key]).generate_state(2, np.uint32)
    # Bit 63 is left out: torch takes seeds up to 2**63.
    return torch.Generator(device="cpu").manual_seed((int(state[0]) << 31) ^ int(state[1]))


def permutation(n: int, seed: int, *key: int) -> torch.Tensor:
    """Returns a permutation of ``n`` entries that depends on the seed and the key alone."""
    return torch.randperm(n, generator=generator(seed, *key), device="cpu")
