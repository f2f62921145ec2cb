"""`Encoding`, the pre-activations and latents of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict.display import Displayed
from sparsedict.latents._sparse_latents import SparseLatents, firing_counts
from sparsedict.latents._support import Support


@dataclass(frozen=True, eq=False, repr=False)
class Encoding(Displayed):
    """Pre-activations and latents of a batch of rows, on a support.

    Attributes:
        pre_activations: Pre-activations, ``[n_entries]`` with a support, else ``[n_tokens, n_latents]``.
        values: Latents, of the same shape.
        support: Positions of the stored entries; ``None`` if all entries are stored.
        gather: Returns the values of all ranks, given those of this rank, if the rows are a part of a batch.
    """

    pre_activations: Float[Tensor, "*entries"]
    values: Float[Tensor, "*entries"]
    support: Support | None
    gather: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)

    def stored(self) -> Support:
        """Returns the support, or a support of all entries if there is none."""
        if self.support is not None:
            return self.support
        n_tokens, n_latents = self.values.shape
        indices = torch.arange(n_latents, device=self.values.device).expand(n_tokens, n_latents)
        return Support.from_indices(indices, n_latents)

    def latents(self) -> Tensor | SparseLatents:
        """Returns the latents as `SparseLatents`, or dense ``[n_tokens, n_latents]`` without a support."""
        if self.support is None:
            return self.values
        return SparseLatents(self.values, self.support, torch.Size((self.support.n_tokens,)))

    def firing_counts(self) -> Int[Tensor, " n_latents"]:
        """Returns the number of tokens on which each latent fires."""
        return firing_counts(self.latents())


def per_entry(vector: Tensor, latents: Tensor | None) -> Tensor:
    """Aligns one value per latent with entries: gathers it for stored entries, broadcasts it for dense latents."""
    if vector.ndim == 0 or latents is None:
        return vector
    # The backward pass of `index_select` is several times faster than that of `vector[latents]`.
    return vector.index_select(0, latents)
