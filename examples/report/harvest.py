"""Activations of a text at a model's sites, computed when first asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from sparsedict.batches import ActivationBatch, Activations
from sparsedict.data import ActivationStream
from sparsedict.progress import Phases
from sparsedict.sites import Site

HELD_BYTES = 4 * 2**30
"""Most activations that are held in memory."""
BATCH_SIZE = 4096


class Harvest:
    """What one text makes of a model's sites, held in memory from when it is first asked for.

    Args:
        sites: By name.
        tokens: The text, ids ``[n_sequences, n_positions]``.
        n_tokens: How many of its tokens to hold.
        purpose: What they are for, to be said when the model runs.
        seed: Of the shuffle.
        phases: Says what is being done.
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
        """Whether the activations of all sites may be held in memory."""
        per_token = sum(4 * (site.d_in + site.d_out) for site in self._sites.values())
        return self._n_tokens * per_token <= HELD_BYTES

    def at(self, site: str) -> Activations:
        """Returns what a site reads and writes."""
        return self.at_all([site])[site]

    def at_all(self, sites: Iterable[str]) -> dict[str, Activations]:
        """Returns what several sites read and write, on the same tokens."""
        wanted = list(dict.fromkeys(sites))
        # Sites of one sort are harvested in one pass: who asks for one layer's MLP soon asks for the next one's.
        sorts = {name.split()[0] for name in wanted if name not in self._held}
        missing = [name for name in self._sites if name.split()[0] in sorts]
        if missing:
            with self._phases("harvesting", f"running the model on {self._n_tokens:,} {self._purpose} tokens"):
                self._held |= self._run(missing)
        return {name: self._held[name] for name in wanted}

    def _run(self, names: Sequence[str]) -> dict[str, Activations]:
        """Runs the model once."""
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
