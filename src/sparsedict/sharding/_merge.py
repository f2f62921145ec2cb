"""Selection among the candidates of all processes.

Each process proposes at most as many of its own entries as the rule selects, since entries that aren't among its own
largest aren't among the largest of all. The values of the candidates are gathered, which gives every process the same
decision. Pre-activations are never gathered.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict.latents import Support
from sparsedict.parallel import WholeBatch
from sparsedict.selections import Blockwise, Largest, LargestOfBatch, Selection
from sparsedict.sharding._peers import Peers
from sparsedict.splits import split

_MAX_LATENTS = 2**32
"""Larger than every index of a latent."""


def merge(
    rule: Selection,
    support: Support,
    strengths: Float[Tensor, " n_entries"],
    latents: Int[Tensor, " n_latents"],
    sizes: Sequence[int],
    peers: Peers,
    whole: WholeBatch | None = None,
) -> Bool[Tensor, " n_entries"] | None:
    """Returns which candidates of this process the rule selects among those of all; ``None`` if it selects all.

    On the CPU, ties are resolved as in one process: in favour of the lowest latent, or the lowest token and then the
    lowest latent for `LargestOfBatch`. On other devices, the choice among ties is unspecified but equal on all
    processes, since a test for ties would synchronise.

    Args:
        rule: The rule for the latents of all processes.
        support: The candidates of this process: the entries that :func:`own_rule` selects.
        strengths: Values by which entries are selected.
        latents: Index of each latent of this process among those of all.
        sizes: Number of latents of each block, over all processes.
        peers: The processes.
        whole: The batch over several ranks if its rows are divided too. The candidates of `LargestOfBatch` must then
            be as many as the rule selects from that batch.
    """
    if isinstance(rule, Blockwise):
        return _merge_blocks(rule, support, strengths, latents, sizes, peers, whole)
    if isinstance(rule, Largest):
        return _largest(rule.k, support, strengths, latents, min(rule.k, _widest(sizes, peers)), peers)
    if isinstance(rule, LargestOfBatch) and whole is not None:
        n_wanted = rule.n_entries(whole.total, sum(sizes))
        return largest_of_whole(strengths, n_wanted, support.tokens, latents[support.latents], whole)
    if isinstance(rule, LargestOfBatch):
        n_wanted = rule.n_entries(support.n_tokens, sum(sizes))
        n_sent = min(n_wanted, support.n_tokens * _widest(sizes, peers))
        return _largest_of_batch(n_wanted, support, strengths, latents, sum(sizes), n_sent, peers)
    return None


def own_rule(rule: Selection, sizes: tuple[int, ...]) -> Selection:
    """Returns the rule for the candidates of this process.

    Args:
        rule: The rule for the latents of all processes.
        sizes: Number of latents of each block of this process.
    """
    if isinstance(rule, Blockwise):
        return Blockwise(tuple(own_rule(own, (size,)) for own, size in zip(rule.rules, sizes, strict=True)), sizes)
    if isinstance(rule, Largest):
        return Largest(min(rule.k, sum(sizes)), rule.lowest_ties)
    return rule


def competes(rule: Selection | None) -> bool:
    """Returns whether the selection of a latent depends on latents of other processes."""
    if isinstance(rule, Blockwise):
        return any(competes(own) for own in rule.rules)
    return isinstance(rule, Largest | LargestOfBatch)


@torch.no_grad()
def largest_of_whole(
    strengths: Float[Tensor, " n_entries"],
    n_wanted: int,
    tokens: Int[Tensor, " n_entries"],
    latents: Int[Tensor, " n_entries"],
    whole: WholeBatch,
) -> Bool[Tensor, " n_entries"]:
    """Returns which candidates of this process are among the largest of a batch whose rows are divided among ranks.

    On the CPU, ties are resolved as in one process: in favour of the first token of the whole batch, and then of the
    lowest latent.

    Args:
        strengths: Values of the candidates of this process.
        n_wanted: Number of entries to select from the whole batch.
        tokens: Row of each candidate in the part of this process.
        latents: Index of each candidate's latent among those of all processes.
        whole: The batch over all ranks.
    """

    def positions() -> Tensor:
        rows = whole.positions(tokens.device)
        return rows[tokens] * _MAX_LATENTS + latents

    return whole.parallel.among_largest(strengths, n_wanted, positions)


def _widest(sizes: Sequence[int], peers: Peers) -> int:
    """Returns the number of latents of the process with the most."""
    return sum(-(-size // peers.size) for size in sizes)


def _merge_blocks(
    rule: Blockwise,
    support: Support,
    strengths: Tensor,
    latents: Tensor,
    sizes: Sequence[int],
    peers: Peers,
    whole: WholeBatch | None,
) -> Tensor | None:
    own = split(support, rule.sizes)
    kept = []
    parts = zip(rule.rules, own.supports, own.take(strengths), latents.split(rule.sizes), sizes, strict=True)
    for inner, part, values, indices, size in parts:
        found = merge(inner, part, values, indices, (size,), peers, whole) if size else None
        kept.append(torch.ones_like(part.latents, dtype=torch.bool) if found is None else found)
    return own.put(kept)


def _largest(k: int, support: Support, strengths: Tensor, latents: Tensor, n_sent: int, peers: Peers) -> Tensor | None:
    """Returns which candidates are among the ``k`` largest of their token. Every token has the same number of them."""
    n_tokens = support.n_tokens
    n_own = support.n_entries // max(n_tokens, 1)
    if peers.size * n_sent <= k or not n_tokens:
        return None
    sent = strengths.new_full((n_tokens, n_sent), -torch.inf)
    sent[:, :n_own] = strengths.view(n_tokens, n_own)
    everything = peers.gather(sent).transpose(0, 1).reshape(n_tokens, -1)
    kth = everything.topk(k, dim=1).values[:, -1:]
    # NaN counts as the largest, as in a search by one process.
    above, tied = ~(everything <= kth), everything == kth
    n_left = k - above.sum(1, keepdim=True)
    kept = above | (tied & (tied.cumsum(1) <= n_left))
    if strengths.device.type == "cpu":
        crossing = ((tied.sum(1, keepdim=True) > n_left) & (kth > -torch.inf)).flatten()
        if bool(crossing.any()):
            indices = latents.new_full((n_tokens, n_sent), torch.iinfo(latents.dtype).max)
            indices[:, :n_own] = latents[support.latents].view(n_tokens, n_own)
            indices = peers.gather(indices[crossing]).transpose(0, 1).reshape(-1, everything.shape[1])
            kept[crossing] = above[crossing] | _lowest(tied[crossing], indices, n_left[crossing])
    return kept.view(n_tokens, peers.size, n_sent)[:, peers.rank, :n_own].flatten()


def _lowest(
    tied: Bool[Tensor, "n_rows n"], indices: Int[Tensor, "n_rows n"], n_kept: Int[Tensor, "n_rows 1"]
) -> Bool[Tensor, "n_rows n"]:
    """Returns the first tied entries of each row in the order of their indices."""
    order = indices.argsort(dim=1)
    in_order = tied.gather(1, order)
    kept = in_order & (in_order.cumsum(1) <= n_kept)
    return torch.zeros_like(tied).scatter_(1, order, kept)


def _largest_of_batch(
    n_wanted: int,
    support: Support,
    strengths: Tensor,
    latents: Tensor,
    n_latents: int,
    n_sent: int,
    peers: Peers,
) -> Tensor | None:
    """Returns which candidates are among the ``n_wanted`` largest of the batch."""
    if peers.size == 1:
        return None
    sent = torch.nn.functional.pad(strengths, (0, n_sent - len(strengths)), value=-torch.inf)
    everything = peers.gather(sent)
    kth = everything.flatten().topk(min(n_wanted, everything.numel()), sorted=False).values.amin()
    above, tied = ~(everything <= kth), everything == kth
    n_left = n_wanted - above.sum()
    kept = (above | (tied & (tied.flatten().cumsum(0).view_as(tied) <= n_left)))[peers.rank, : len(strengths)]
    if strengths.device.type != "cpu" or not bool((tied.sum() > n_left) & (kth > -torch.inf)):
        return kept
    own = tied[peers.rank, : len(strengths)]
    positions = support.tokens[own] * n_latents + latents[support.latents[own]]
    padded = positions.new_full((int(tied.sum(1).max()),), torch.iinfo(positions.dtype).max)
    padded[: len(positions)] = positions
    everywhere = peers.gather(padded)
    last = everywhere.flatten().sort().values[int(n_left) - 1]
    kept = above[peers.rank, : len(strengths)].clone()
    kept[own] = positions <= last
    return kept
