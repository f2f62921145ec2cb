"""`BestRows`, the entries with the largest keys of each latent, updated block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EMPTY = -1
"""Key of an empty slot."""
_GROWTH = 4
"""Ratio of the widths of two successive tables of new entries."""


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
        chosen, slots = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for new in self._new_entries(latents, keys):
            both = np.concatenate([self.keys[new.rows], new.keys], axis=1)
            n_new = new.keys.shape[1]
            is_kept = np.zeros(both.shape, dtype=bool)
            np.put_along_axis(is_kept, np.argpartition(both, n_new, axis=1)[:, n_new:], True, axis=1)
            is_new = is_kept[:, k:] & (new.keys != EMPTY)
            # The n-th new entry of a row takes the n-th slot that became free. No free slot sorts after a used one.
            free = np.argsort(is_kept[:, :k], axis=1, kind="stable")
            of_row, column = np.nonzero(is_new)
            slot = free[of_row, (np.cumsum(is_new, axis=1) - 1)[of_row, column]]
            latent = new.rows[of_row].astype(np.int64)
            self.keys[latent, slot] = new.keys[of_row, column]
            self._lowest[new.rows] = self.keys[new.rows].min(1)
            chosen.append(new.entries[of_row, column])
            slots.append(latent * k + slot)
        return np.concatenate(chosen), np.concatenate(slots)

    def update_(self, latents: NDArray[np.int32], keys: NDArray[np.int64]) -> None:
        """Adds entries, like `offer_`, where only the keys matter."""
        for new in self._new_entries(latents, keys):
            both = np.concatenate([self.keys[new.rows], new.keys], axis=1)
            n_new = new.keys.shape[1]
            both.partition(n_new, axis=1)
            self.keys[new.rows], self._lowest[new.rows] = both[:, n_new:], both[:, n_new]

    def _new_entries(self, latents: NDArray[np.int32], keys: NDArray[np.int64]) -> Iterator[_NewEntries]:
        """Yields the entries whose keys exceed the smallest key of their latent.

        Latents with similar numbers of entries come together, so that a frequent latent doesn't widen the tables of
        all. The entries aren't sorted by their keys.
        """
        given = np.flatnonzero(keys > self._lowest[latents])
        starts = np.flatnonzero(np.diff(latents[given], prepend=-1))
        counts = np.diff(starts, append=len(given))
        rank = np.arange(len(given)) - np.repeat(starts, counts)
        width = _GROWTH ** np.ceil(np.log(counts) / np.log(_GROWTH) - 1e-9).astype(np.int64)
        for size in np.unique(width).tolist():
            rows = np.flatnonzero(width == size)
            number = np.full(len(starts), -1)
            number[rows] = np.arange(len(rows))
            row = np.repeat(number, counts)
            own = np.flatnonzero(row >= 0)
            found = _NewEntries(
                latents[given[starts[rows]]],
                np.full((len(rows), size), EMPTY, dtype=np.int64),
                np.zeros((len(rows), size), dtype=np.int64),
            )
            found.keys[row[own], rank[own]], found.entries[row[own], rank[own]] = keys[given[own]], given[own]
            yield found


@dataclass(frozen=True, eq=False)
class _NewEntries:
    """Entries of some latents.

    Attributes:
        rows: The latents, ``[n_rows]``.
        keys: Keys of the entries; -1 at padding, ``[n_rows, n_new]``.
        entries: Indices of the entries, ``[n_rows, n_new]``.
    """

    rows: NDArray[np.int32]
    keys: NDArray[np.int64]
    entries: NDArray[np.int64]
