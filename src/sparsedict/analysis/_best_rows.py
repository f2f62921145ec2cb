"""`BestRows`, the entries with the largest keys of each latent, updated block by block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EMPTY = -1
"""Key of an empty slot."""


class BestRows:
    """The entries with the ``k`` largest keys of each latent.

    The result doesn't depend on the blocks in which entries arrive, because it only depends on the order of the keys.

    Args:
        n_latents: Number of latents.
        k: Number of entries for each latent.

    Attributes:
        keys: The keys, ``[n_latents, k]``, in no order; -1 in empty slots.
    """

    def __init__(self, n_latents: int, k: int) -> None:
        self.keys: NDArray[np.int64] = np.full((n_latents, k), EMPTY, dtype=np.int64)
        self._lowest: NDArray[np.int64] = np.full(n_latents, EMPTY, dtype=np.int64)

    @property
    def lowest(self) -> NDArray[np.int64]:
        """The smallest key of each latent, -1 while there are empty slots, ``[n_latents]``."""
        return self._lowest

    def restore_(self, keys: NDArray[np.int64]) -> None:
        """Replaces all keys."""
        self.keys = keys
        self._lowest = keys.min(1)

    def offer_(
        self, latents: NDArray[np.int32], keys: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Adds entries, and returns the indices of those that are kept, and their slots in the flattened ``keys``.

        Args:
            latents: Latent of each entry, in ascending order, ``[n_entries]``.
            keys: Key of each entry, not negative and different from all other keys of the latent, ``[n_entries]``.
        """
        k = self.keys.shape[1]
        given = np.flatnonzero(keys > self._lowest[latents])
        if not len(given):
            return given, given
        given = given[np.lexsort((-keys[given], latents[given]))]
        begins = np.diff(latents[given], prepend=-1) != 0
        rank = _rank(begins)
        is_best = rank < k
        row = (np.cumsum(begins) - 1)[is_best]
        rows = latents[given][begins]
        given, rank = given[is_best], rank[is_best]
        # In later blocks, few entries are new.
        n_new = int(rank.max()) + 1
        new = np.full((len(rows), n_new), EMPTY, dtype=np.int64)
        source = np.zeros((len(rows), n_new), dtype=np.int64)
        new[row, rank], source[row, rank] = keys[given], given
        both = np.concatenate([self.keys[rows], new], axis=1)
        is_kept = np.zeros(both.shape, dtype=bool)
        np.put_along_axis(is_kept, np.argpartition(both, n_new, axis=1)[:, n_new:], True, axis=1)
        is_new = is_kept[:, k:] & (new != EMPTY)
        # The n-th new entry of a row takes the n-th slot that became free. No free slot sorts after a used one.
        free = np.argsort(is_kept[:, :k], axis=1, kind="stable")
        of_row, column = np.nonzero(is_new)
        slot = free[of_row, (np.cumsum(is_new, axis=1) - 1)[of_row, column]]
        latent = rows[of_row].astype(np.int64)
        self.keys[latent, slot] = new[of_row, column]
        self._lowest[rows] = self.keys[rows].min(1)
        return source[of_row, column], latent * k + slot


def _rank(begins: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns the index of each element within its run, given a mask of the first elements of runs."""
    index = np.arange(len(begins))
    return index - np.maximum.accumulate(np.where(begins, index, 0))
