"""Selection among latents of several blocks with different inputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.kernels._largest import largest_of_all
from sparsedict.kernels._select import GUESS_SHARE, Selected, first_threshold, select
from sparsedict.kernels._workspace import Workspace
from sparsedict.latents import Support
from sparsedict.selections import Above, Blockwise, Largest, LargestOfBatch, Selection, settle_ties
from sparsedict.splits import join, split

MAX_GUESSED = 4
"""Largest ratio of entries above a guessed threshold to wanted entries. Above it, the guess isn't used."""


class Affine(NamedTuple):
    """The pre-activations of one block of latents, ``inputs @ rows.T + bias``.

    Attributes:
        inputs: One vector for each token.
        rows: One row for each latent of the block.
        bias: One number for each latent of the block.
    """

    inputs: Float[Tensor, "n_tokens d"]
    rows: Float[Tensor, "n_latents d"]
    bias: Float[Tensor, " n_latents"]


@torch.no_grad()
def select_parts(
    parts: Sequence[Affine], rule: Selection, *, max_entries: int | None = None, workspace: Workspace | None = None
) -> Selected | None:
    """Returns the entries that a rule selects among the latents of all blocks, as :func:`select` for one block.

    Args:
        parts: The blocks, in the order of their latents.
        rule: A rule for which :func:`can_select` is true.
        max_entries: Largest number of entries. If more are selected, the result is ``None``.
        workspace: Memory to reuse.

    Raises:
        ValueError: If the blocks of a :class:`Blockwise` rule differ from those of the latents.
    """
    if isinstance(rule, Blockwise):
        rules = list(rule.rules)
        parts = _cut(parts, rule.sizes)
    elif len(parts) == 1:
        return select(*parts[0], rule, max_entries=max_entries, workspace=workspace)
    else:
        rules = [_narrowed(rule, start, end) for start, end in pairwise(_bounds(parts))]
    if isinstance(rule, LargestOfBatch):
        return _largest_of_batch(parts, rule, workspace)
    joined = _joined(parts, rules, max_entries, workspace)
    if joined is None or not isinstance(rule, Largest):
        return joined
    return _largest(*joined, rule)


def _bounds(parts: Sequence[Affine]) -> list[int]:
    return list(accumulate((len(part.rows) for part in parts), initial=0))


def _cut(parts: Sequence[Affine], sizes: Sequence[int]) -> list[Affine]:
    """Splits the parts into the given sizes."""
    if tuple(len(part.rows) for part in parts) == tuple(sizes):
        return list(parts)
    if len(parts) > 1 or len(parts[0].rows) != sum(sizes):
        raise ValueError(f"The blocks of the rule must be those of the latents, got sizes {tuple(sizes)}.")
    inputs, rows, bias = parts[0]
    return [Affine(inputs, *own) for own in zip(rows.split(sizes), bias.split(sizes), strict=True)]


def _narrowed(rule: Selection, start: int, end: int) -> Selection:
    """Returns the rule for one block. Its selection includes all entries that the rule selects among all blocks."""
    if isinstance(rule, Above) and rule.threshold.ndim:
        return Above(rule.threshold[start:end])
    return rule


def _joined(
    parts: Sequence[Affine], rules: Sequence[Selection], max_entries: int | None, workspace: Workspace | None
) -> Selected | None:
    found: list[Selected] = []
    for part, rule in zip(parts, rules, strict=True):
        picked = _of_part(part, rule, max_entries, workspace)
        if picked is None:
            return None
        found.append(picked)
    support = join([own for own, _ in found])
    if max_entries is not None and support.n_entries > max_entries:
        return None
    return support, split(support, [own.n_latents for own, _ in found]).put([values for _, values in found])


def _of_part(part: Affine, rule: Selection, max_entries: int | None, workspace: Workspace | None) -> Selected | None:
    n_latents = len(part.rows)
    if not n_latents:
        return Support.empty(len(part.inputs), part.inputs.device), part.inputs.new_zeros(0)
    if isinstance(rule, Largest) and rule.k > n_latents:
        rule = Largest(n_latents, rule.lowest_ties)
    return select(*part, rule, max_entries=max_entries, workspace=workspace)


def _largest(support: Support, values: Tensor, rule: Largest) -> Selected:
    """Returns the largest entries of each token. All tokens have the same number of entries."""
    n_tokens = support.n_tokens
    width = support.n_entries // max(n_tokens, 1)
    if width <= rule.k:
        return support, values
    table, latents = values.view(n_tokens, width), support.latents.view(n_tokens, width)
    if rule.lowest_ties or values.device.type == "cpu":
        found = table.topk(rule.k + 1, dim=1)
        tied = found.values[:, -1] == found.values[:, -2]
        if bool(tied.any()):
            order = latents.argsort(dim=1)
            table, latents = table.gather(1, order), latents.gather(1, order)
            found = table.topk(rule.k + 1, dim=1)
        chosen = settle_ties(table, *found)
    else:
        chosen = table.topk(rule.k, dim=1, sorted=False).indices
    picked = Support.from_indices(latents.gather(1, chosen), support.n_latents)
    return picked, table.gather(1, chosen).flatten()


def _largest_of_batch(parts: Sequence[Affine], rule: LargestOfBatch, workspace: Workspace | None) -> Selected:
    n_tokens, n_latents = len(parts[0].inputs), _bounds(parts)[-1]
    n_wanted = rule.n_entries(n_tokens, n_latents)
    joined = None
    if rule.guess is not None:
        guess = first_threshold(rule, parts[0].inputs, GUESS_SHARE)
        if bool(guess > 0):
            joined = _joined(parts, [Above(guess)] * len(parts), MAX_GUESSED * n_wanted, workspace)
    if joined is None or joined[0].n_entries < n_wanted:
        # The largest entries of a block include its entries that are among the largest of all blocks.
        joined = _joined(parts, [LargestOfBatch(rule.k)] * len(parts), None, workspace)
        assert joined is not None  # there is no limit
    support, values = joined
    if support.n_entries <= n_wanted:
        return joined
    chosen = largest_of_all(values, n_wanted)
    offsets = torch.searchsorted(chosen, support.offsets)
    return Support(support.latents.index_select(0, chosen), offsets, n_latents), values.index_select(0, chosen)
