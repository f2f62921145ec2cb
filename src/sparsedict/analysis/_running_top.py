"""`RunningTop`, the strongest examples of many latents, updated batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Entries:
    """The active latents in a batch of sequences.

    Attributes:
        values: Value of the latent, ``[n_entries]``.
        latents: Index of the latent, ``[n_entries]``.
        sequences: Index of the sequence in the batch, ``[n_entries]``.
        positions: Position in the sequence, ``[n_entries]``.
        n_tokens: Number of tokens encoded.
    """

    values: Float[Tensor, " n_entries"]
    latents: Int[Tensor, " n_entries"]
    sequences: Int[Tensor, " n_entries"]
    positions: Int[Tensor, " n_entries"]
    n_tokens: int


class RunningTop:
    """The strongest sequences of each chosen latent so far, in flat rows that are sorted by latent, then by strength.

    Args:
        latents: The chosen latents, ``[n_chosen]``.
        n_latents: Number of latents of the dictionary.
        n_examples: Number of sequences for each latent.
        window: Offsets of the positions around a peak, ``[n_window]``.
    """

    def __init__(self, latents: Tensor, n_latents: int, n_examples: int, window: Tensor) -> None:
        self.latents = latents
        self.n_tokens = self.n_sequences = 0
        self.n_before = int((window < 0).sum())
        self._n_examples = n_examples
        self._window = window
        self._column = torch.full((n_latents,), -1, dtype=torch.int64, device="cpu")
        self._column[latents] = torch.arange(len(latents), device="cpu")
        nothing = torch.zeros(0, dtype=torch.int64, device="cpu")
        self._columns = self.sequences = self.positions = nothing
        self._values = nothing.float()
        self.activations = torch.zeros(0, len(window), device="cpu", dtype=torch.float32)
        self.tokens = torch.zeros(0, len(window), dtype=torch.int64, device="cpu")

    @property
    def offsets(self) -> list[int]:
        """The rows of column ``i`` are ``offsets[i]:offsets[i + 1]``."""
        counts = torch.bincount(self._columns, minlength=len(self.latents))
        return [0, *counts.cumsum(0).tolist()]

    def update_(self, entries: Entries, tokens: Int[Tensor, "n_sequences n_positions"]) -> None:
        """Adds a batch. ``tokens`` are -1 at positions without a token, such as padding."""
        columns = self._column[entries.latents]
        is_chosen = columns >= 0
        values, columns = entries.values[is_chosen], columns[is_chosen]
        sequences, positions = entries.sequences[is_chosen], entries.positions[is_chosen]
        if len(values):
            self._merge_(columns, values, sequences, positions, tokens)
        self.n_tokens += entries.n_tokens
        self.n_sequences += len(tokens)

    def _merge_(self, columns: Tensor, values: Tensor, sequences: Tensor, positions: Tensor, tokens: Tensor) -> None:
        peaks = self._peaks(columns, values, sequences, positions, tokens.shape[1])
        n_old, n_new = len(self._columns), len(peaks[0])
        old = (self._columns, self._values, self.sequences - self.n_sequences, self.positions)
        all_columns, all_values, all_sequences, all_positions = map(torch.cat, zip(old, peaks, strict=True))
        # Sorted by column, then by magnitude. Stable sorts keep equal rows in the order of sequences.
        order = torch.sort(all_values, stable=True, descending=True).indices
        order = order[torch.sort(all_columns[order], stable=True).indices]
        counts = torch.bincount(all_columns, minlength=len(self.latents))
        first = (counts.cumsum(0) - counts)[all_columns[order]]
        order = order[torch.arange(n_old + n_new, device=first.device) - first < self._n_examples]
        fresh = order >= n_old
        self._columns, self._values = all_columns[order], all_values[order]
        self.sequences, self.positions = all_sequences[order] + self.n_sequences, all_positions[order]
        windows = self._windows(columns, values, sequences, positions, tokens, order[fresh] - n_old, peaks)
        self.activations = _place_rows(self.activations, order, fresh, windows[0])
        self.tokens = _place_rows(self.tokens, order, fresh, windows[1])

    def _peaks(
        self, columns: Tensor, values: Tensor, sequences: Tensor, positions: Tensor, n_positions: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns column, magnitude, sequence and position of the first peak of each latent in each sequence."""
        keys, inverse = torch.unique(sequences * len(self.latents) + columns, return_inverse=True)
        values = values.abs()
        top = values.new_zeros(len(keys)).scatter_reduce_(0, inverse, values, "amax")
        first_positions = torch.where(values == top[inverse], positions, n_positions)
        where = torch.full_like(keys, n_positions).scatter_reduce_(0, inverse, first_positions, "amin")
        return keys % len(self.latents), top, keys // len(self.latents), where

    def _windows(
        self,
        columns: Tensor,
        values: Tensor,
        sequences: Tensor,
        positions: Tensor,
        tokens: Tensor,
        chosen: Tensor,
        peaks: tuple[Tensor, Tensor, Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Returns the activations and tokens around the chosen peaks, by a binary search in the sorted entries."""
        column, _, sequence, position = (part[chosen, None] for part in peaks)
        n_positions, n_columns = tokens.shape[1], len(self.latents)
        around = position + self._window
        inside = (around >= 0) & (around < n_positions)
        around = around.clamp(0, n_positions - 1)
        shown = tokens[sequence, around].masked_fill(~inside, -1)
        keys, order = torch.sort((sequences * n_positions + positions) * n_columns + columns)
        wanted = (sequence * n_positions + around) * n_columns + column
        at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        found = (keys[at] == wanted) & (shown >= 0)
        return torch.where(found, values[order[at]], 0.0), shown


def _place_rows(rows: Tensor, order: Tensor, fresh: Tensor, new: Tensor) -> Tensor:
    """Returns rows in a new order, with ``new`` at the positions of the mask ``fresh``."""
    result = rows.new_empty(len(order), rows.shape[1])
    result[~fresh] = rows[order[~fresh]]
    result[fresh] = new
    return result
