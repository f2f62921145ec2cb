"""Latents that fire on the same tokens, estimated from a sample of each latent's tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_SAMPLED = 256
"""Number of tokens that are sampled for each latent."""
MIN_JOINT = 3
"""Smallest number of sampled tokens on which both latents of a pair fire."""
_ROWS = 256
_PAIRS_PER_PRODUCT = 32
"""Multiplications of a matrix product in the time that one pair of a latent and a token takes otherwise."""


@dataclass(frozen=True, eq=False)
class Cofiring:
    """The latents that fire on the same tokens as each latent, see `cofiring`."""

    latents: NDArray[np.int64]
    jaccard: NDArray[np.float32]
    share: NDArray[np.float32]


def cofiring(keys: NDArray[np.int64], counts: NDArray[np.int64], n_partners: int) -> Cofiring:
    r"""Returns for each latent the latents of largest Jaccard index of their tokens.

    The tokens of each latent are those with the largest random keys, which are the same for all latents (bottom-k
    sketches). The keys that a pair has in common, divided by the share of keys that both samples cover, estimate the
    number of tokens on which both fire. The estimate is exact for latents that fire on fewer tokens than are sampled.

    Args:
        keys: The keys of the sampled tokens of each latent, -1 in empty slots, ``[n_latents, n_sampled]``.
        counts: Number of tokens on which each latent fires, ``[n_latents]``.
        n_partners: Number of partners.

    Returns:
        Partners, -1 if there are fewer; Jaccard indices; and the share of the latent's tokens on which the partner
        fires, each ``[n_latents, n_partners]``.

    Source: Cohen and Kaplan, "Summarizing data using bottom-k sketches", 2007.
    """
    n_latents = len(keys)
    found = Cofiring(
        np.full((n_latents, n_partners), -1, dtype=np.int64),
        np.zeros((n_latents, n_partners), dtype=np.float32),
        np.zeros((n_latents, n_partners), dtype=np.float32),
    )
    covered, is_within = _covered(keys)
    joint = _joint_counts(keys, is_within)
    for first in range(0, n_latents, _ROWS):
        own = np.arange(first, min(first + _ROWS, n_latents))
        counted = joint(own)
        counted[own - first, own] = 0
        row, other = np.nonzero(counted >= MIN_JOINT)
        latent = row + first
        both = counted[row, other] / np.minimum(covered[latent], covered[other])
        both = np.minimum(both, np.minimum(counts[latent], counts[other]))
        score = both / (counts[latent] + counts[other] - both)
        order = np.lexsort((other, -score, row))
        starts = np.searchsorted(row[order], np.arange(len(own)))
        rank = np.arange(len(order)) - starts[row[order]]
        order, rank = order[rank < n_partners], rank[rank < n_partners]
        found.latents[latent[order], rank] = other[order]
        found.jaccard[latent[order], rank] = score[order]
        found.share[latent[order], rank] = (both / counts[latent])[order]
    return found


def _covered(keys: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns the share of all keys that each sample covers, and the mask of the keys within.

    If a latent fired on as many tokens as are sampled, its smallest key is the limit and isn't in the sample.
    """
    lowest = keys.min(1)
    is_full = lowest >= 0
    covered = np.where(is_full, 1.0 - lowest / 2.0**63, 1.0)
    return covered, (keys >= 0) & (~is_full[:, None] | (keys > lowest[:, None]))


def _joint_counts(
    keys: NDArray[np.int64], is_within: NDArray[np.bool_]
) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """Returns a function from some consecutive latents to the number of tokens in common with every latent."""
    n_latents = len(keys)
    row, column = np.nonzero(is_within)
    tokens, token = np.unique(keys[row, column], return_inverse=True)
    sizes = np.bincount(token, minlength=len(tokens))
    if sizes[token].sum() * _PAIRS_PER_PRODUCT > n_latents**2 * len(tokens):
        is_sampled = np.zeros((n_latents, len(tokens)), dtype=np.float32)
        is_sampled[row, token] = 1.0
        return lambda own: (is_sampled[own] @ is_sampled.T).astype(np.int64)
    by_token = row[np.argsort(token, kind="stable")]
    starts = np.cumsum(sizes) - sizes
    bounds = np.searchsorted(row, np.arange(n_latents + 1))

    def counted(own: NDArray[np.int64]) -> NDArray[np.int64]:
        mine = slice(bounds[own[0]], bounds[own[-1] + 1])
        n = sizes[token[mine]]
        index = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n - starts[token[mine]], n)
        flat = np.repeat(row[mine] - own[0], n) * n_latents + by_token[index]
        return np.bincount(flat, minlength=len(own) * n_latents).reshape(len(own), n_latents)

    return counted
