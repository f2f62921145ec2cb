"""Selects entries of ``inputs @ rows.T + bias`` by a rule, without storing the whole product."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.kernels._backend import sampled_product
from sparsedict.kernels._bounds import Bounds, bounds_are_faster
from sparsedict.kernels._largest import MAX_CANDIDATES, is_searched, largest, largest_of_all, largest_stored
from sparsedict.kernels._positions import positions_above
from sparsedict.kernels._workspace import Workspace, scratch
from sparsedict.latents import Support, per_entry
from sparsedict.selections import Above, Blockwise, Largest, LargestOfBatch, Selection

BLOCK_BYTES = 2**25
"""Memory for one block of pre-activations or bounds. Products of larger blocks are faster."""

MIN_BLOCK_TOKENS = 256
"""Minimum number of tokens in a block. Smaller blocks would spend too much time reading the rows."""

GUESS_SHARE = 0.9
"""Fraction of a guessed threshold above which candidates are gathered."""

MAX_SHARE = 1 / 32
"""Fraction of candidates in a block above which the whole block is computed."""

SAMPLE_TOKENS = 64
"""Minimum number of tokens to estimate the density of a batch. With a new ReLU, half of all entries are active."""

CANDIDATES_OF_BATCH = 2
"""Estimated number of candidates per selected entry of a batch, if the threshold was estimated from a sample."""

MIN_CANDIDATES_OF_BATCH = 1.1
"""Estimated number of candidates per selected entry of a batch below which a guessed threshold isn't used."""

MAX_CANDIDATES_OF_BATCH = 4
"""Estimated number of candidates per selected entry of a batch above which a guessed threshold isn't used."""

SAMPLE_MARGIN = 1.2
"""Ratio of the estimated number of entries to the limit above which the search is abandoned."""

Selected = tuple[Support, Tensor]
"""Selected entries and their pre-activations."""


def can_select(rule: Selection | None, device: torch.device) -> bool:
    """Returns whether :func:`select` supports a rule on a device without synchronisation."""
    if isinstance(rule, Blockwise):
        return all(can_select(own, device) for own in rule.rules)
    return isinstance(rule, Largest) or (isinstance(rule, Above | LargestOfBatch) and device.type == "cpu")


@torch.no_grad()
def select(
    inputs: Float[Tensor, "n_tokens d"],
    rows: Float[Tensor, "n_latents d"],
    bias: Float[Tensor, " n_latents"],
    rule: Selection,
    *,
    max_entries: int | None = None,
    bounded: bool | None = None,
    workspace: Workspace | None = None,
) -> Selected | None:
    """Returns the entries that a rule selects, and their pre-activations, detached.

    The product is computed in blocks of tokens, in one buffer. If this machine multiplies bfloat16 much faster than
    float32, upper bounds from a bfloat16 product determine the candidates. Only these are computed in float32, and the
    rule is applied to them. The result is exact, since the bounds include all rounding errors.

    Args:
        inputs: One vector per token.
        rows: One row per latent, such as an encoder.
        bias: One number per latent.
        rule: A rule for which :func:`can_select` holds.
        max_entries: Number of entries above which ``None`` is returned, since dense products are faster.
        bounded: Whether to compute bounds first; by default if that is faster.
        workspace: Memory to reuse for blocks and bounds.
    """
    dtype = inputs.dtype
    if torch.amp.is_autocast_available(inputs.device.type) and torch.is_autocast_enabled(inputs.device.type):
        low = torch.get_autocast_dtype(inputs.device.type)
        inputs, rows, bias = inputs.to(low), rows.to(low), bias.to(low)
    bounded = bounds_are_faster(inputs, rows) if bounded is None else bounded
    # Rows that are too short for groups have no lower bound.
    bounded &= len(inputs) > 0 and not (isinstance(rule, Largest) and not is_searched(len(rows), rule.k))
    search = _Search(inputs, rows, bias, rule.threshold if isinstance(rule, Above) else None, bounded, workspace)
    if isinstance(rule, Largest):
        picked = search.largest(rule)
    elif isinstance(rule, LargestOfBatch):
        picked = search.largest_of_batch(rule)
    else:
        assert isinstance(rule, Above), rule
        picked = search.above(like(rule.threshold, inputs), max_entries)
    return None if picked is None else (picked[0], picked[1].to(dtype))


def first_threshold(rule: LargestOfBatch, inputs: Tensor, share: float) -> Tensor:
    """Returns a fraction of the guessed threshold, above which candidates are gathered; zero without a guess."""
    if rule.guess is None:
        return inputs.new_zeros(())
    return (rule.guess * share).nan_to_num(0.0).clamp_min(0.0)


def like(threshold: Tensor, pre: Tensor) -> Tensor:
    """Returns a threshold on the device of the pre-activations, in the dtype for the comparison."""
    if threshold.ndim:
        return threshold.to(pre.device, torch.promote_types(threshold.dtype, pre.dtype))
    if threshold.device != pre.device:
        # Copying a number from the host would synchronise.
        return torch.full((), float(threshold), dtype=pre.dtype, device=pre.device)
    return threshold.to(pre.dtype)


def _sample(rows: Tensor) -> Tensor:
    """Returns rows at equal distances, at least ``SAMPLE_TOKENS`` if there are so many."""
    return rows[:: max(1, len(rows) // SAMPLE_TOKENS)]


class _Search:
    """One search among the entries of ``inputs @ rows.T + bias``."""

    def __init__(
        self,
        inputs: Tensor,
        rows: Tensor,
        bias: Tensor,
        threshold: Tensor | None,
        bounded: bool,
        workspace: Workspace | None,
    ) -> None:
        self._inputs, self._rows, self._bias, self._workspace = inputs, rows, bias, workspace
        self._n_tokens, self._n_latents = len(inputs), len(rows)
        # The threshold is subtracted from the bias, so entries with a positive bound are candidates.
        self._bounds = None
        if bounded:
            self._bounds = Bounds.from_rows(inputs, rows, bias if threshold is None else bias - threshold, workspace)

    def largest(self, rule: Largest) -> Selected:
        indices, values = [], []
        for begin, end, block in self._blocks():
            chosen, known = self._largest(begin, end, block, rule)
            indices.append(chosen)
            values.append(known)
        return Support.from_indices(torch.cat(indices), self._n_latents), torch.cat(values).flatten()

    def _largest(self, begin: int, end: int, block: Tensor, rule: Largest) -> tuple[Tensor, Tensor]:
        if self._bounds is None:
            return largest(block, rule.k, lowest_ties=rule.lowest_ties)
        flat = self._bounds.candidates(begin, end, block, rule.k)
        if flat is None or len(flat) > MAX_CANDIDATES * rule.k * (end - begin):
            return largest(self._exact(begin, end), rule.k, lowest_ties=rule.lowest_ties)
        support = Support.from_flat(flat, end - begin, self._n_latents)
        known = self._at(self._inputs[begin:end], support)
        return largest_stored(known, support, rule.k, lowest_ties=rule.lowest_ties)

    def above(self, threshold: Tensor, max_entries: int | None) -> Selected | None:
        found, values, n_found = [], [], 0
        for begin, end, block in self._blocks():
            if (
                begin == 0
                and max_entries is not None
                and self._looks_like_more(max_entries, block[:SAMPLE_TOKENS], threshold)
            ):
                return None
            flat, known = self._above(begin, end, block, threshold, torch.zeros((), device="cpu", dtype=torch.float32))
            found.append(flat)
            values.append(known)
            n_found += len(flat)
            if max_entries is not None and n_found > max_entries:
                return None
        return Support.from_flat(torch.cat(found), self._n_tokens, self._n_latents), torch.cat(values)

    def _looks_like_more(self, max_entries: int, sample: Tensor, threshold: Tensor) -> bool:
        """Estimates from a sample of tokens whether there are more than ``max_entries`` entries."""
        reached = ~(sample <= threshold) if self._bounds is None else sample >= 0
        return int(reached.sum()) * self._n_tokens > SAMPLE_MARGIN * max_entries * len(sample)

    def largest_of_batch(self, rule: LargestOfBatch) -> Selected:
        n_wanted = rule.n_entries(self._n_tokens, self._n_latents)
        guess = first_threshold(rule, self._inputs, GUESS_SHARE).to(self._inputs.dtype)
        flat, values, threshold = self._largest_above(n_wanted, guess, is_guess=True)
        for factor in (MAX_CANDIDATES_OF_BATCH, None):
            if len(flat) == n_wanted or not bool(threshold > 0):
                break
            lower = torch.zeros_like(guess) if factor is None else self._estimate(factor * n_wanted)
            flat, values, threshold = self._largest_above(n_wanted, lower)
        return Support.from_flat(flat, self._n_tokens, self._n_latents), values

    def _largest_above(
        self, n_wanted: int, threshold: Tensor, *, is_guess: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns positions and values of the largest entries of the batch above a threshold, and this threshold.

        The threshold rises during the search. The returned one is that of the beginning. A guess that is far off is
        replaced by an estimate.
        """
        found, values = self._inputs.new_empty(0, dtype=torch.int64), self._inputs.new_empty(0)
        lowest = threshold
        for begin, end, block in self._blocks():
            if begin == 0 and is_guess and self._is_far_off(block, threshold, n_wanted):
                lowest = threshold = self._estimate(CANDIDATES_OF_BATCH * n_wanted)
            flat, known = self._above(begin, end, block, threshold, threshold)
            found, values = torch.cat((found, flat)), torch.cat((values, known))
            if len(found) > n_wanted:
                chosen = largest_of_all(values, n_wanted)
                found, values = found[chosen], values[chosen]
                threshold = values.amin()
        return found, values, lowest

    def _is_far_off(self, block: Tensor, threshold: Tensor, n_wanted: int) -> bool:
        """Returns whether a sample of a block has too few or too many candidates above a threshold."""
        sample = _sample(block)
        reached = ~(sample <= threshold) if self._bounds is None else self._bounds.reaches(sample, threshold)
        share = int(reached.sum()) * self._n_tokens / max(n_wanted * len(sample), 1)
        return share > MAX_CANDIDATES_OF_BATCH or (share < MIN_CANDIDATES_OF_BATCH and bool(threshold > 0))

    def _estimate(self, n_entries: float) -> Tensor:
        """Returns an estimate of the threshold that ``n_entries`` entries exceed, from a sample of tokens."""
        sample = _sample(self._inputs)
        pre = torch.addmm(self._bias, sample, self._rows.T).flatten().float()
        n_above = math.ceil(n_entries * len(sample) / max(self._n_tokens, 1))
        place = len(pre) - n_above
        smallest = float(np.partition(pre.numpy(), place)[place]) if place > 0 else 0.0
        return self._inputs.new_tensor(smallest if 0 < smallest < math.inf else 0.0)

    def _blocks(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yields the first token, the end, and the pre-activations or bounds of each block, in one buffer."""
        dtype = self._inputs.dtype if self._bounds is None else torch.bfloat16
        n_fitting = BLOCK_BYTES // (self._n_latents * dtype.itemsize)
        size = max(1, min(max(n_fitting, MIN_BLOCK_TOKENS), self._n_tokens))
        buffer = scratch(self._workspace, "block", (size, self._n_latents), dtype, self._inputs.device)
        for begin in range(0, max(self._n_tokens, 1), size):
            end = min(begin + size, self._n_tokens)
            block = buffer[: end - begin]
            if self._bounds is None:
                torch.addmm(self._bias, self._inputs[begin:end], self._rows.T, out=block)
            else:
                self._bounds.block(begin, end, block)
            yield begin, end, block

    def _above(self, begin: int, end: int, block: Tensor, threshold: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        """Returns ascending positions in the batch and pre-activations. Bounds of candidates are above ``limit``."""
        offset = begin * self._n_latents
        flat = None if self._bounds is None else self._bounds.above(block, limit)
        if flat is None or len(flat) > MAX_SHARE * block.numel():
            exact = block if self._bounds is None else self._exact(begin, end)
            flat = positions_above(exact, threshold)
            return flat + offset, exact.view(-1)[flat]
        support = Support.from_flat(flat, end - begin, self._n_latents)
        known = self._at(self._inputs[begin:end], support)
        kept = ~(known <= per_entry(threshold, support.latents))
        return flat[kept] + offset, known[kept]

    def _exact(self, begin: int, end: int) -> Tensor:
        shape = end - begin, self._n_latents
        out = scratch(self._workspace, "exact block", shape, self._inputs.dtype, self._inputs.device)
        return torch.addmm(self._bias, self._inputs[begin:end], self._rows.T, out=out)

    def _at(self, inputs: Tensor, support: Support) -> Tensor:
        return sampled_product(inputs, self._rows, support) + self._bias.index_select(0, support.latents)
