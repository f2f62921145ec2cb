"""`Harvest`, which computes the activations of a text at the sites of a model on first use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from sparsedict.batches import ActivationBatch, Activations
from sparsedict.data import ActivationStream
from sparsedict.progress import Phases
from sparsedict.sites import Site

HELD_BYTES = 4 * 2**30
"""Largest size of activations in memory, in bytes."""
BATCH_SIZE = 4096


class Harvest:
    """The activations of a text at the sites of a model, which are computed on first use and kept in memory.

    Args:
        sites: Sites by name.
        tokens: Token ids of the text, ``[n_sequences, n_positions]``.
        n_tokens: Number of tokens to keep.
        purpose: Purpose of the activations, for progress messages.
        seed: Seed of the shuffle.
        phases: Prints progress messages.
    """

    def __init__(
        self, sites: Mapping[str, Site], tokens: Tensor, n_tokens: int, purpose: str, *, seed: int, phases: Phases
    ) -> None:
        self.tokens: Tensor = tokens
        self._sites = sites
        self._n_tokens = n_tokens
        self._purpose = purpose
        self._seed = seed
        self._phases = phases
        self._held: dict[str, Activations] = {}

    @property
    def fits(self) -> bool:
        """Whether the activations of all sites fit into memory."""
        per_token = sum(4 * (site.d_in + site.d_out) for site in self._sites.values())
        return self._n_tokens * per_token <= HELD_BYTES

    def at(self, site: str) -> Activations:
        """Returns the inputs and outputs of a site."""
        return self.at_all([site])[site]

    def at_all(self, sites: Iterable[str]) -> dict[str, Activations]:
        """Returns the inputs and outputs of several sites, on the same tokens."""
        wanted = list(dict.fromkeys(sites))
        # All sites of the same kind are computed in one pass, because studies usually need several layers.
        sorts = {name.split()[0] for name in wanted if name not in self._held}
        missing = [name for name in self._sites if name.split()[0] in sorts]
        if missing:
            with self._phases("harvesting", f"running the model on {self._n_tokens:,} {self._purpose} tokens"):
                self._held |= self._run(missing)
        return {name: self._held[name] for name in wanted}

    def _run(self, names: Sequence[str]) -> dict[str, Activations]:
        """Runs the model once and returns the activations by site."""
        sites = {name: self._sites[name] for name in names}
        stream = ActivationStream(
            sites, self.tokens, batch_size=BATCH_SIZE, buffer_size=4 * BATCH_SIZE, seed=self._seed
        )
        held: dict[str, Tensor] = {}
        n_seen = 0
        for batch in stream:
            n_rows = min(self._n_tokens - n_seen, batch.n_tokens)
            for point, rows in batch.items():
                if point not in held:
                    held[point] = rows.new_empty(self._n_tokens, rows.shape[1])
                held[point][n_seen : n_seen + n_rows] = rows[:n_rows]
            n_seen += n_rows
            if n_seen >= self._n_tokens:
                break
        return {
            name: ActivationBatch(held[f"{name}.inputs"][:n_seen], held[f"{name}.outputs"][:n_seen]) for name in names
        }
