"""Sparse latents of a batch: stored entries (`Support`), their values (`SparseLatents`), and both with pre-activations
(`Encoding`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
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


def per_entry(vector: Tensor, latents: Tensor | None) -> Tensor:
    """Aligns one value per latent with entries: gathers it for stored entries, broadcasts it for dense latents."""
    if vector.ndim == 0 or latents is None:
        return vector
    # The backward pass of `index_select` is several times faster than that of `vector[latents]`.
    return vector.index_select(0, latents)


def _offsets(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))
