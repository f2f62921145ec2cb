"""`GroupMax`, which keeps the largest latent of each group."""

from __future__ import annotations

from dataclasses import dataclass, replace

import einops
import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.activations._activation import Activation, State
from sparsedict.latents import Support


@dataclass(frozen=True)
class GroupMax(Activation):
    """The largest of ``max(p, 0)`` in each of ``k`` groups of adjacent latents. Of ties, the first is selected.

    It is much cheaper than TopK, since it needs no sorting.

    Args:
        k: Number of groups, and largest number of active latents of a token. It must divide ``n_latents``.

    Source: the activation ``groupmax`` of EleutherAI's sparsify, 2025.

    Example:
        >>> import torch
        >>> GroupMax(2).support(torch.tensor([[1.0, 3.0, 2.0, 0.5]]), {}, training=False).latents
        tensor([1, 2])
    """

    k: int

    elementwise = False

    def __post_init__(self) -> None:
        checks.set_at_least(self, "k", 1)

    def check(self, n_latents: int) -> None:
        if n_latents % self.k:
            raise ValueError(
                f"`k` must divide `n_latents`, got k={self.k} for {n_latents} latents. Change one of the two."
            )

    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return pre.relu()

    def competition(self, state: State, *, training: bool) -> None:
        return None

    def for_shard(self, n_ranks: int, n_latents: tuple[int, ...]) -> GroupMax:
        if self.k % n_ranks:
            raise ValueError(
                f"`k` of {self!r} must be a multiple of the number of processes, {n_ranks}, so that each has whole "
                "groups. Change one of the two."
            )
        return replace(self, k=self.k // n_ranks)

    def support(self, pre: Float[Tensor, "n_tokens n_latents"], state: State, *, training: bool) -> Support:
        n_latents = pre.shape[-1]
        within = einops.rearrange(pre, "tokens (groups within) -> tokens groups within", groups=self.k).argmax(-1)
        starts = torch.arange(0, n_latents, n_latents // self.k, device=pre.device)
        return Support.from_indices(within + starts, n_latents)
