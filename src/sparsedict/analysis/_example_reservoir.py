"""`ExampleReservoir`, examples of many latents with the text around them, updated block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sparsedict.analysis._best_rows import BestRows
from sparsedict.analysis._entry_blocks import EntryBlock
from sparsedict.analysis._examples import ExampleTable

_SEQUENCE_BITS = 32


@dataclass(frozen=True, eq=False)
class Candidates:
    """Entries of a block that may become examples.

    Attributes:
        entries: Indices of the entries, in the order of their latents, ``[n]``.
        keys: Keys, of which the largest are kept, ``[n]``.
    """

    entries: NDArray[np.int64]
    keys: NDArray[np.int64]


class ExampleReservoir:
    """The examples with the largest keys of each latent.

    Args:
        n_latents: Number of latents.
        n_examples: Number of examples for each latent.
        context: Number of tokens before and after the example's token.
    """

    def __init__(self, n_latents: int, n_examples: int, context: tuple[int, int]) -> None:
        self.best = BestRows(n_latents, n_examples)
        self.context = context
        n_slots, n_window = n_latents * n_examples, sum(context) + 1
        self.tokens: NDArray[np.int32] = np.full((n_slots, n_window), -1, dtype=np.int32)
        self.activations: NDArray[np.float32] = np.zeros((n_slots, n_window), dtype=np.float32)
        self.sequences: NDArray[np.int64] = np.zeros(n_slots, dtype=np.int64)
        self.positions: NDArray[np.int32] = np.zeros(n_slots, dtype=np.int32)

    def update_(self, block: EntryBlock, candidates: Candidates) -> None:
        """Adds candidates of a block."""
        chosen, slots = self.best.offer_(block.latents[candidates.entries], candidates.keys)
        entries = candidates.entries[chosen]
        places = block.places[entries]
        self.tokens[slots] = _tokens_around(block, places, self.context)
        self.activations[slots] = _activations_around(block, entries, self.context)
        self.sequences[slots] = block.text.sequences[places]
        self.positions[slots] = block.text.positions[places]

    @property
    def values(self) -> NDArray[np.float32]:
        """Value of the latent at each example, ``[n_slots]``."""
        return self.activations[:, self.context[0]]

    def table(self) -> ExampleTable:
        """Returns the examples of all latents, those of the largest keys first."""
        keys = self.best.keys
        latent, slot = np.nonzero(keys >= 0)
        order = np.lexsort((-keys[latent, slot], latent))
        return self.table_of((latent * keys.shape[1] + slot)[order], latent, len(keys))

    def table_of(self, slots: NDArray[np.int64], groups: NDArray[np.int64], n_groups: int) -> ExampleTable:
        """Returns the examples in some slots, of groups in ascending order."""
        return ExampleTable(
            torch.from_numpy(self.tokens[slots]),
            torch.from_numpy(self.activations[slots]),
            torch.from_numpy(self.sequences[slots]),
            torch.from_numpy(self.positions[slots].astype(np.int64)),
            torch.from_numpy(np.searchsorted(groups, np.arange(n_groups + 1))),
            self.context[0],
        )

    def state(self) -> dict[str, Any]:
        """Returns the state as tensors."""
        arrays = {"keys": self.best.keys, "tokens": self.tokens, "activations": self.activations}
        arrays |= {"sequences": self.sequences, "positions": self.positions}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def restore_(self, state: dict[str, Any]) -> None:
        """Restores the result of `state`."""
        self.best.restore_(state["keys"].numpy())
        self.tokens, self.activations = state["tokens"].numpy(), state["activations"].numpy()
        self.sequences, self.positions = state["sequences"].numpy(), state["positions"].numpy()


def peaks(block: EntryBlock, lowest: NDArray[np.int64]) -> Candidates:
    """Returns each latent's entry of largest magnitude in each sequence, if its key is above the latent's lowest.

    Keys order entries by magnitude. Among equal magnitudes, earlier positions and earlier sequences come first.
    """
    if not len(block):
        return Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64))
    sequences = block.text.sequences[block.places]
    starts = np.flatnonzero((np.diff(block.latents, prepend=-1) != 0) | (np.diff(sequences, prepend=-1) != 0))
    bits = np.abs(block.values).view(np.int32).astype(np.int64) << _SEQUENCE_BITS
    index = np.arange(len(block))
    top = np.maximum.reduceat(bits | (len(block) - 1 - index), starts)
    entries = len(block) - 1 - (top & (2**_SEQUENCE_BITS - 1))
    keys = bits[entries] | (2**_SEQUENCE_BITS - 1 - sequences[starts])
    above = keys > lowest[block.latents[entries]]
    return Candidates(entries[above], keys[above])


def sample(block: EntryBlock, seed: int, lowest: NDArray[np.int64]) -> Candidates:
    """Returns entries with keys that are random numbers, which depend on the seed, the latent and the token."""
    keys = _mixed(token_keys(block, seed)[block.places] ^ _mixed(block.latents.astype(np.uint64) + np.uint64(1)))
    return _above(block, (keys >> np.uint64(1)).view(np.int64), lowest)


def shared_sample(block: EntryBlock, seed: int, lowest: NDArray[np.int64]) -> Candidates:
    """Returns entries with keys that are random numbers, the same for all latents that fire on a token."""
    return _above(block, (token_keys(block, seed) >> np.uint64(1)).view(np.int64)[block.places], lowest)


def token_keys(block: EntryBlock, seed: int) -> NDArray[np.uint64]:
    """Returns a random number for each token of a block, which depends on the seed and its place in the sequences."""
    number = (block.text.sequences.astype(np.uint64) << np.uint64(24)) ^ block.text.positions.astype(np.uint64)
    return _mixed(number ^ _mixed(np.array([seed], dtype=np.uint64)))


def _above(block: EntryBlock, keys: NDArray[np.int64], lowest: NDArray[np.int64]) -> Candidates:
    entries = np.flatnonzero(keys > lowest[block.latents])
    return Candidates(entries, keys[entries])


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Returns pseudorandom 64-bit numbers by the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _tokens_around(block: EntryBlock, places: NDArray[np.int64], context: tuple[int, int]) -> NDArray[np.int32]:
    """Returns the tokens around some places, -1 outside of their sequence."""
    text, gap = block.text, max(context)
    # With gaps between the sequences, each window is a contiguous part of the text.
    moved = np.arange(len(text.tokens)) + gap * (
        1 + np.cumsum(np.diff(text.sequences, prepend=text.sequences[:1]) != 0)
    )
    spread = np.full(int(moved[-1]) + gap + 1, -1, dtype=np.int32)
    spread[moved] = text.tokens
    return sliding_window_view(spread, sum(context) + 1)[moved[places] - context[0]]


def _activations_around(block: EntryBlock, entries: NDArray[np.int64], context: tuple[int, int]) -> NDArray[np.float32]:
    """Returns the values of the entries' latents around their places.

    The entries of a latent are neighbours in a block, so each side is walked outwards until an entry is too far.
    """
    n_before, n_after = context
    found = np.zeros((len(entries), n_before + n_after + 1), dtype=np.float32)
    found[:, n_before] = block.values[entries]
    for direction, reach in ((-1, n_before), (1, n_after)):
        rows, at = np.arange(len(entries)), entries
        for _ in range(reach):
            at = at + direction
            inside = (at >= 0) & (at < len(block))
            rows, at = rows[inside], at[inside]
            start = entries[rows]
            offset = block.places[at] - block.places[start]
            near = (np.abs(offset) <= reach) & (block.latents[at] == block.latents[start])
            rows, at, offset = rows[near], at[near], offset[near]
            if not len(rows):
                break
            sequences = block.text.sequences
            same = sequences[block.places[at]] == sequences[block.places[entries[rows]]]
            rows, at, offset = rows[same], at[same], offset[same]
            found[rows, n_before + offset] = block.values[at]
    return found
