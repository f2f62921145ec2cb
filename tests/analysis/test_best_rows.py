"""`BestRows` keeps the largest keys of each latent, whatever the blocks in which entries arrive."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedict.analysis._best_rows import BestRows

N_LATENTS = 6


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_the_largest_keys_of_each_latent_are_kept(k: int, n_blocks: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    offered, updated = BestRows(N_LATENTS, k), BestRows(N_LATENTS, k)
    payload = np.full(N_LATENTS * k, -1)
    everything: list[list[int]] = [[] for _ in range(N_LATENTS)]
    next_keys = random.permutation(2_000)
    for _ in range(n_blocks):
        # Latent 0 has many entries, the last one none.
        latents = np.sort(random.choice(N_LATENTS - 1, 30, p=[0.6, 0.2, 0.1, 0.06, 0.04])).astype(np.int32)
        keys, next_keys = next_keys[:30].astype(np.int64), next_keys[30:]
        entries, slots = offered.offer_(latents, keys)
        assert len(set(slots.tolist())) == len(slots)
        payload[slots] = keys[entries]
        updated.update_(latents, keys)
        for latent, key in zip(latents.tolist(), keys.tolist(), strict=True):
            everything[latent].append(key)
    for latent, own in enumerate(everything):
        best = sorted(own, reverse=True)[:k]
        padded = sorted(best + [-1] * (k - len(best)))
        assert np.sort(offered.keys[latent]).tolist() == np.sort(updated.keys[latent]).tolist() == padded
        assert offered.lowest[latent] == updated.lowest[latent] == padded[0]
    np.testing.assert_array_equal(payload, offered.keys.reshape(-1))
