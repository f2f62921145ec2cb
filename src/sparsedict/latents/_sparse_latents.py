"""`SparseLatents`, the values of the stored entries of a batch, and `fires`, the definition of an active latent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict.display import Displayed
from sparsedict.latents._support import ResultMemory, Support


@dataclass(frozen=True, eq=False, repr=False)
class SparseLatents(Displayed):
    """Latents of a batch of which only some entries are stored. All other entries are exactly zero.

    An entry is stored wherever its value *or its gradient* may be non-zero, so a stored value may be zero.

    Attributes:
        values: Value of each stored entry, differentiable, ``[n_entries]``.
        support: Positions of the stored entries.
        batch_shape: Leading dimensions of the batch; their product is the number of tokens.
        is_none: Whether all latents are zero by construction (:meth:`none`), in every process.

    Example:
        >>> import torch
        >>> sparse = SparseLatents.from_dense(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
        >>> sparse.values, sparse.latents, sparse.offsets
        (tensor([2.]), tensor([1]), tensor([0, 1, 1]))
    """

    values: Float[Tensor, " n_entries"]
    support: Support
    batch_shape: torch.Size
    is_none: bool = False

    @classmethod
    def from_dense(cls, latents: Float[Tensor, "*batch n_latents"]) -> SparseLatents:
        """Stores the non-zero entries of dense latents."""
        if not isinstance(latents, Tensor) or not latents.is_floating_point() or latents.ndim == 0:
            kind = f"{latents.dtype} {tuple(latents.shape)}" if isinstance(latents, Tensor) else type(latents).__name__
            raise TypeError(f"`latents` must be a floating-point tensor [*batch, n_latents], got {kind}.")
        flat = latents.reshape(-1, latents.shape[-1])
        support = Support.from_mask(flat != 0)
        return cls(flat[support.tokens, support.latents], support, latents.shape[:-1])

    @property
    def latents(self) -> Int[Tensor, " n_entries"]:
        """Index of the latent of each entry."""
        return self.support.latents

    @property
    def offsets(self) -> Int[Tensor, " n_tokens_and_one"]:
        """Token ``t`` has the entries ``offsets[t]:offsets[t + 1]``."""
        return self.support.offsets

    @classmethod
    def none(cls, n_tokens: int, n_latents: int, like: Tensor, *, memory: ResultMemory | None = None) -> SparseLatents:
        """Returns latents without stored entries, with the device and dtype of another tensor."""
        support = Support.empty(n_tokens, like.device, n_latents).with_memory(memory)
        return cls(like.new_zeros(0), support, torch.Size((n_tokens,)), is_none=True)

    @property
    def n_latents(self) -> int:
        return self.support.n_latents

    @property
    def shape(self) -> torch.Size:
        """Shape of the dense tensor."""
        return torch.Size((*self.batch_shape, self.n_latents))

    def to_dense(self) -> Float[Tensor, "*batch n_latents"]:
        """Returns the dense latents, differentiable in the values."""
        support = self.support
        flat = self.values.new_zeros(support.n_tokens, self.n_latents)
        # Padding may share its position with a stored entry, and adds zero to it.
        dense = flat.index_put((support.tokens, support.latents), self.values, accumulate=support.has_padding)
        return dense.view(self.shape)

    def detach(self) -> SparseLatents:
        """Returns the latents, detached from the autograd graph."""
        return SparseLatents(self.values.detach(), self.support, self.batch_shape)

    def firing_counts(self) -> Int[Tensor, " n_latents"]:
        """Returns the number of tokens on which each latent fires."""
        counts = torch.zeros(self.n_latents, dtype=torch.int64, device=self.values.device)
        return counts.index_add_(0, self.latents, fires(self.values).to(torch.int64))

    def l0(self) -> Float[Tensor, ""]:
        """Returns the mean number of latents that fire on a token."""
        return fires(self.values).sum() / max(self.support.n_tokens, 1)


def fires(values: Float[Tensor, "*entries"]) -> Bool[Tensor, "*entries"]:
    """Returns a mask of the latents that fire, which are those that are not zero.

    L0, firing frequencies, dead latents, training's counters and examples all use this definition. A negative latent
    of AbsTopK fires. GELU and SiLU are almost never zero, so their L0 is close to ``n_latents``. NaN fires.

    Args:
        values: Dense latents, or the values of stored entries.

    Example:
        >>> import torch
        >>> fires(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([ True, False,  True])
    """
    return values != 0


def firing_counts(latents: Float[Tensor, "n_tokens n_latents"] | SparseLatents) -> Int[Tensor, " n_latents"]:
    """Returns the number of tokens on which each latent fires, for dense or sparse latents."""
    return latents.firing_counts() if isinstance(latents, SparseLatents) else fires(latents).sum(0)
