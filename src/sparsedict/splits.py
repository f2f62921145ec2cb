"""Splitting supports into blocks of consecutive latents, and joining the supports of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sparsedict.display import Displayed
from sparsedict.latents import Support


@dataclass(frozen=True, eq=False, repr=False)
class Split(Displayed):
    """A support that is split into blocks of consecutive latents.

    Attributes:
        supports: Support of each block. Latents are numbered from the first latent of the block.
        order: Indices of the entries of all blocks, in the order of the blocks, in the whole support. ``None`` for a
            single block.
        n_entries: Number of entries of the whole support, including padding.
        n_own: Number of entries of each block.
    """

    supports: tuple[Support, ...]
    order: Int[Tensor, " n_stored"] | None
    n_entries: int
    n_own: tuple[int, ...]

    def take(self, values: Float[Tensor, " n_entries"]) -> tuple[Tensor, ...]:
        """Returns the values of the entries of each block. The result is differentiable."""
        if self.order is None:
            return (values,)
        return values.index_select(0, self.order).split(self.n_own)

    def put(self, values: Sequence[Tensor]) -> Shaped[Tensor, " n_entries"]:
        """Returns the values of all blocks in the order of the whole support; padding is zero. Differentiable."""
        if self.order is None:
            return values[0]
        joined = torch.cat(tuple(values))
        return joined.new_zeros(self.n_entries).index_copy(0, self.order, joined)


def split(support: Support, sizes: Sequence[int]) -> Split:
    """Splits a support into blocks.

    Args:
        support: The support.
        sizes: Number of latents of each block. Their sum is ``support.n_latents``.
    """
    if len(sizes) == 1:
        return Split((support,), None, support.n_entries, (support.n_entries,))
    known = vars(support).setdefault("_splits", {})
    key = tuple(sizes)
    if key not in known:
        known[key] = _cut(support, key)
    found: Split = known[key]
    if found.supports[0].memory is not support.memory:
        known[key] = found = replace(found, supports=tuple(s.with_memory(support.memory) for s in found.supports))
    return found


def join(supports: Sequence[Support]) -> Support:
    """Joins the supports of blocks without synchronisation. The entries of a token are in the order of the blocks."""
    if len(supports) == 1:
        return supports[0]
    sizes = tuple(own.n_latents for own in supports)
    starts = list(accumulate(sizes, initial=0))
    offsets = torch.stack([own.offsets for own in supports]).sum(0)
    n_own = tuple(own.n_entries for own in supports)
    before = offsets[:-1]
    places = []
    for own in supports:
        # Position of an entry: its token's first entry, plus entries of earlier blocks, plus its index in the block.
        shift = (before - own.offsets[:-1]).index_select(0, own.tokens)
        places.append(torch.arange(own.n_entries, device=offsets.device) + shift)
        before = before + own.offsets.diff()
    order = torch.cat(places)
    latents = torch.cat([own.latents + start for own, start in zip(supports, starts[:-1], strict=True)])
    joined = Support(torch.empty_like(latents).index_copy_(0, order, latents), offsets, starts[-1])
    vars(joined)["_splits"] = {sizes: Split(tuple(supports), order, len(latents), n_own)}
    return joined


def _cut(support: Support, sizes: tuple[int, ...]) -> Split:
    supports, places = [], []
    for start, end in pairwise(accumulate(sizes, initial=0)):
        inside = (support.latents >= start) & (support.latents < end)
        if support.has_padding:
            inside &= support.is_stored
        own = inside.nonzero().flatten()
        # Number of entries of the block before the first entry of each token.
        offsets = torch.nn.functional.pad(inside.cumsum(0), (1, 0)).index_select(0, support.offsets)
        latents = support.latents.index_select(0, own) - start
        supports.append(Support(latents, offsets, end - start, memory=support.memory))
        places.append(own)
    return Split(tuple(supports), torch.cat(places), support.n_entries, tuple(map(len, places)))
