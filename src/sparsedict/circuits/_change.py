"""`Change`: what an intervention on one node of a graph adds to the activations of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Change:
    """What an intervention adds at one position.

    Attributes:
        position: The position.
        embedding: What is added to the token's embedding, ``[d]``.
        writes: What is added to the outputs of sites, ``[d]`` each, by name.
        place: Place of a latent among those that have a node; None for tokens and error terms.
    """

    position: int
    embedding: Tensor | None = None
    writes: Mapping[str, Tensor] = field(default_factory=dict)
    place: int | None = None


def changed(value: Tensor, changes: Sequence[Change], site: str | None = None) -> Tensor:
    """Returns activations of several copies of a prompt, each with one change.

    Args:
        value: The outputs of a site, or token embeddings, of all positions of all copies.
        changes: The change of each copy.
        site: Name of the site; None for token embeddings.
    """
    rows = value.reshape(-1, value.shape[-1]).clone()
    n_positions = len(rows) // len(changes)
    for copy, own in enumerate(changes):
        part = own.embedding if site is None else own.writes.get(site)
        if part is not None:
            rows[copy * n_positions + own.position] += part.to(rows)
    return rows.reshape(value.shape)
