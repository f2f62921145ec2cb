"""Selection of the largest entries of a batch whose rows are divided among ranks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sparsedict.latents import Support
from sparsedict.parallel import WholeBatch
from sparsedict.selections import Blockwise, LargestOfBatch, Selection
from sparsedict.sharding import largest_of_whole


def candidate_rule(rule: Selection, whole: WholeBatch) -> Selection:
    """Returns the rule for a rank's candidates: as many entries as the rule selects from the whole batch."""
    if isinstance(rule, Blockwise):
        return replace(rule, rules=tuple(candidate_rule(own, whole) for own in rule.rules))
    if isinstance(rule, LargestOfBatch):
        return LargestOfBatch(rule.k * whole.total / whole.own)
    return rule


def is_over_batch(rule: Selection | None) -> bool:
    """Returns whether a rule selects the largest entries of a batch."""
    if isinstance(rule, Blockwise):
        return any(is_over_batch(own) for own in rule.rules)
    return isinstance(rule, LargestOfBatch)


@torch.no_grad()
def selected_of_whole(rule: Selection, entries: Tensor, support: Support, whole: WholeBatch) -> Tensor:
    """Returns which candidates of this rank the rule selects from the whole batch, ``[n_entries]`` booleans.

    Args:
        rule: The rule for the whole batch.
        entries: Pre-activations of the candidates of :func:`candidate_rule`.
        support: Their positions.
        whole: The batch over all ranks.
    """
    # Padding is never selected.
    known = entries if not support.has_padding else torch.where(support.is_stored, entries, -torch.inf)
    if isinstance(rule, LargestOfBatch):
        return _largest(rule, known, support.tokens, support.latents, support.n_latents, whole)
    assert isinstance(rule, Blockwise)
    chosen, begin = torch.ones_like(entries, dtype=torch.bool), 0
    for own, size in zip(rule.rules, rule.sizes, strict=True):
        if size and is_over_batch(own):
            here = ((support.latents >= begin) & (support.latents < begin + size)).nonzero().flatten()
            assert isinstance(own, LargestOfBatch)
            chosen[here] = _largest(own, known[here], support.tokens[here], support.latents[here], size, whole)
        begin += size
    return chosen


def _largest(
    rule: LargestOfBatch, entries: Tensor, tokens: Tensor, latents: Tensor, n_latents: int, whole: WholeBatch
) -> Tensor:
    return largest_of_whole(entries.detach(), rule.n_entries(whole.total, n_latents), tokens, latents, whole)
