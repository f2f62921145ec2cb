"""`Support`, the stored entries of sparse latents, by token and by latent."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparsedict.display import Displayed


@runtime_checkable
class ResultMemory(Protocol):
    """Memory on the CPU that products can write to, instead of allocating new tensors."""

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        """Returns an uninitialised tensor that is not otherwise in use, or ``None`` if none fits."""
        ...

    def array(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Returns an uninitialised tensor in memory that can be reused when nothing refers to the tensor any more."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class TransposedSupport(Displayed):
    """A support ordered by latent: entry ``i`` is entry ``order[i]`` of the original support.

    Attributes:
        order: Index of each entry in the original support.
        tokens: Index of the token of each entry.
        offsets: Latent ``j`` has the entries ``offsets[j]:offsets[j + 1]``, ``[n_latents + 1]``.
    """

    order: Int[Tensor, " n_entries"]
    tokens: Int[Tensor, " n_entries"]
    offsets: Int[Tensor, " n_latents_and_one"]


@dataclass(frozen=True, eq=False, repr=False)
class Support(Displayed):
    """The stored latents of each token, in compressed sparse row (CSR) layout.

    Attributes:
        latents: Index of the latent of each entry, ``[n_entries]``. The order within a token is unspecified.
        offsets: Token ``t`` has the entries ``offsets[t]:offsets[t + 1]``, ``[n_tokens + 1]``.
        n_latents: Width of the dictionary.
        has_padding: Whether there may be entries beyond the last offset. They belong to no token. They exist where the
            host doesn't know the number of entries. Their latent is 0, and their value must be 0, without gradient.
        memory: Memory for the gradients of products with this support; ``None`` to allocate new tensors.
    """

    latents: Int[Tensor, " n_entries"]
    offsets: Int[Tensor, " n_tokens_and_one"]
    n_latents: int
    has_padding: bool = False
    memory: ResultMemory | None = field(default=None, repr=False)

    @classmethod
    def empty(cls, n_tokens: int, device: torch.device, n_latents: int = 0) -> Support:
        """Returns a support without entries."""
        offsets = torch.zeros(n_tokens + 1, dtype=torch.int64, device=device)
        return cls(offsets[:0], offsets, n_latents)

    @classmethod
    def from_mask(cls, mask: Bool[Tensor, "n_tokens n_latents"]) -> Support:
        """Stores the true entries of a mask. Synchronises with the device to read their number."""
        tokens, latents = mask.nonzero(as_tuple=True)
        counts = torch.bincount(tokens, minlength=len(mask))
        return cls(latents, _offsets(counts), mask.shape[-1])

    @classmethod
    def from_indices(cls, indices: Int[Tensor, "n_tokens k"], n_latents: int) -> Support:
        """Stores the given ``k`` latents of every token."""
        n_tokens, k = indices.shape
        offsets = torch.arange(0, n_tokens * k + 1, k, device=indices.device) if k else indices.new_zeros(n_tokens + 1)
        return cls(indices.flatten().contiguous(), offsets, n_latents)

    @classmethod
    def from_flat(cls, flat: Int[Tensor, " n_entries"], n_tokens: int, n_latents: int) -> Support:
        """Stores the entries at positions ``token * n_latents + latent``, given in ascending order."""
        starts = torch.arange(0, (n_tokens + 1) * n_latents, n_latents, device=flat.device)
        offsets = torch.searchsorted(flat, starts)
        # Repeating each token's start is several times faster than the remainder of each position.
        return cls(
            flat - torch.repeat_interleave(starts[:-1], offsets.diff(), output_size=len(flat)), offsets, n_latents
        )

    def with_memory(self, memory: ResultMemory | None) -> Support:
        """Returns the same entries with another memory for the gradients of products."""
        if memory is self.memory:
            return self
        made = replace(self, memory=memory)
        # Cached properties describe the entries, so the copy has the same.
        vars(made).update({name: value for name, value in vars(self).items() if name not in vars(made)})
        return made

    @property
    def n_tokens(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_entries(self) -> int:
        return len(self.latents)

    @cached_property
    def tokens(self) -> Int[Tensor, " n_entries"]:
        """Index of the token of each entry. Padding has the index of the last token."""
        if self.has_padding:
            indices = torch.arange(self.n_entries, device=self.offsets.device)
            return torch.searchsorted(self.offsets[1:], indices, right=True).clamp_(max=max(self.n_tokens - 1, 0))
        rows = torch.arange(self.n_tokens, device=self.offsets.device)
        return torch.repeat_interleave(rows, self.offsets.diff(), output_size=self.n_entries)

    @cached_property
    def is_stored(self) -> Bool[Tensor, " n_entries"]:
        """True for entries of a token, false for padding."""
        return torch.arange(self.n_entries, device=self.offsets.device) < self.offsets[-1]

    def of_tokens(self, begin: int, end: int) -> Support:
        """Returns the entries of tokens ``begin`` to ``end``. Reads two offsets, which synchronises with the device."""
        offsets = self.offsets[begin : end + 1]
        return Support(self.latents[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0], self.n_latents)

    @property
    def is_sorted_by_latent(self) -> bool:
        """Whether :attr:`by_latent` has already been computed."""
        return "by_latent" in vars(self)

    @cached_property
    def by_latent(self) -> TransposedSupport:
        """The same entries, ordered by latent. Padding comes last and belongs to no latent."""
        latents = self.latents.to(torch.int32)
        if self.has_padding:
            latents = torch.where(self.is_stored, latents, self.n_latents)
        order = _stable_order(latents, self.n_latents)
        bounds = torch.arange(self.n_latents + 1, dtype=torch.int32, device=latents.device)
        offsets = torch.searchsorted(latents.index_select(0, order), bounds)
        return TransposedSupport(order, self.tokens.index_select(0, order), offsets)


def _stable_order(numbers: Int[Tensor, " n"], largest: int) -> Int[Tensor, " n"]:
    """Returns the indices that sort integers from 0 to ``largest``, in a stable order."""
    if numbers.device.type == "cpu" and largest < 2**16:
        # NumPy uses a radix sort for 16-bit integers, which is several times faster than a comparison sort.
        return torch.from_numpy(np.argsort(numbers.numpy().astype(np.uint16), kind="stable"))
    return numbers.sort(stable=True).indices


def _offsets(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))
