"""Selection without synchronisation: memory is allocated for the expected number of entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.kernels._backend import compacts
from sparsedict.kernels._select import first_threshold, like
from sparsedict.kernels._workspace import Workspace, scratch
from sparsedict.latents import Support
from sparsedict.selections import Above, LargestOfBatch, Selection

if TYPE_CHECKING:
    from sparsedict.kernels._triton import Compaction

CAPACITY_FACTOR = 1.25
"""Minimum ratio of the capacity to the number of entries of the previous step."""

MIN_CAPACITY = 2**10

CANDIDATES = 2
"""Ratio of the capacity for candidates to the number of selected entries, for the largest of a batch."""

GUESS_SHARE = 0.8
"""Fraction of a guessed threshold above which candidates are gathered.

It is lower than for `select`, since too few candidates require computing the whole step again.
"""

BLOCK_ENTRIES = 2**26
"""Number of pre-activations in memory at a time, enough to keep an accelerator busy."""


class Capacity:
    """The number of entries for which a step allocates memory, and whether it was sufficient.

    The capacity is derived from the density of the previous step. While the device works, the host reads the number of
    entries. If it exceeded the capacity, the results of the step are wrong, and the step must be computed again without
    a capacity. A step thus depends only on the densities of earlier steps and on its data.

    Args:
        density: Fraction of entries that the previous step stored.
    """

    def __init__(self, density: float) -> None:
        self.density: float = density
        self._readings: list[tuple[_Reading, int | None]] = []

    def n_needed(self, total: int) -> int:
        """Returns the expected number of entries out of ``total``, by the density of the previous step."""
        return int(CAPACITY_FACTOR * self.density * total)

    def n_allocated(self, total: int) -> int:
        """Returns the number of entries to allocate. Sizes are rounded up, so that freed memory can be reused."""
        return min(max(1 << self.n_needed(total).bit_length(), MIN_CAPACITY), total)

    def update(self, count: Tensor, exceeded: Tensor, total: int | None) -> None:
        """Starts an asynchronous copy of the number of entries, and of whether the capacity was exceeded, to the host.

        Args:
            count: Number of selected entries.
            exceeded: Whether the step must be computed again.
            total: Number of all entries; ``None`` if the next capacity doesn't depend on the count.
        """
        self._readings.append((_Reading(torch.stack((count, exceeded.to(count.dtype)))), total))

    def was_sufficient(self) -> bool:
        """Returns whether the capacity was sufficient, and sets the density for the next step.

        It waits until the device has selected entries, but not for later work.
        """
        found = [(*reading.wait(), total) for reading, total in self._readings]
        self._readings = []
        shares = [count / total for count, _, total in found if total]
        self.density = max(shares, default=self.density)
        return not any(exceeded for _, exceeded, _ in found)


class _Reading:
    """An asynchronous copy of two numbers to the host."""

    def __init__(self, numbers: Tensor) -> None:
        self._numbers, self._copied = numbers, None
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, device="cpu", pin_memory=True)
            with torch.cuda.device(numbers.device):
                self._numbers.copy_(numbers, non_blocking=True)
                self._copied = torch.cuda.Event()
                self._copied.record()

    def wait(self) -> tuple[int, int]:
        if self._copied is not None:
            self._copied.synchronize()
        count, failed = self._numbers.tolist()
        return count, failed


def can_select_within(
    capacity: Capacity | None, rule: Selection | None, device: torch.device, *, total: int, max_entries: int
) -> bool:
    """Returns whether :func:`select_within` supports a rule on a device, with at most ``max_entries`` expected entries.

    Args:
        capacity: Capacity of the step, if any.
        rule: The rule, if any.
        device: Device of the pre-activations.
        total: Number of all pre-activations.
        max_entries: Number of entries above which dense products are faster. It doesn't apply to `LargestOfBatch`,
            whose number of entries is known.
    """
    if capacity is None or not compacts(device):
        return False
    return isinstance(rule, LargestOfBatch) or (isinstance(rule, Above) and capacity.n_needed(total) <= max_entries)


@torch.no_grad()
def select_within(
    capacity: Capacity,
    inputs: Float[Tensor, "n_tokens d"],
    rows: Float[Tensor, "n_latents d"],
    bias: Float[Tensor, " n_latents"],
    rule: Selection,
    *,
    workspace: Workspace | None = None,
) -> tuple[Support, Float[Tensor, " n_entries"]]:
    """Returns the entries that a rule selects, with padding, and their pre-activations, detached.

    The pre-activations of padding are values that the rule doesn't select. If there are more entries than the capacity,
    the result is incomplete, and :meth:`Capacity.was_sufficient` returns ``False``.

    Args:
        capacity: The capacity. It records the number of entries.
        inputs: One vector per token.
        rows: One row per latent, such as an encoder.
        bias: One number per latent.
        rule: A rule for which :func:`can_select_within` holds.
        workspace: Memory to reuse for blocks.
    """
    dtype, total = inputs.dtype, len(inputs) * len(rows)
    if torch.is_autocast_enabled(inputs.device.type):
        low = torch.get_autocast_dtype(inputs.device.type)
        inputs, rows, bias = inputs.to(low), rows.to(low), bias.to(low)
    if isinstance(rule, LargestOfBatch):
        support, values = _largest_of_batch(inputs, rows, bias, rule, capacity, workspace)
    else:
        assert isinstance(rule, Above), rule
        n_entries = capacity.n_allocated(total)
        found = _gathered(inputs, rows, bias, like(rule.threshold, inputs), n_entries, workspace)
        capacity.update(found.count, found.count > n_entries, total)
        support, values = Support(found.latents, found.offsets, len(rows), True), found.values
    return support, values.to(dtype)


def record_density(pre: Float[Tensor, "n_tokens n_latents"], rule: Selection | None, capacity: Capacity | None) -> None:
    """Records the number of entries that a rule selects from dense pre-activations, if there is a capacity."""
    if capacity is None or not isinstance(rule, Above) or not compacts(pre.device):
        return
    from sparsedict.kernels._triton import counts_above

    count = counts_above(pre.detach().contiguous(), like(rule.threshold, pre)).sum()
    capacity.update(count, torch.zeros_like(count), pre.numel())


def _largest_of_batch(
    inputs: Tensor,
    rows: Tensor,
    bias: Tensor,
    rule: LargestOfBatch,
    capacity: Capacity,
    workspace: Workspace | None,
) -> tuple[Support, Tensor]:
    total = len(inputs) * len(rows)
    n_wanted = rule.n_entries(len(inputs), len(rows))
    n_entries = min(CANDIDATES * n_wanted, total)
    threshold = like(first_threshold(rule, inputs, GUESS_SHARE), inputs)
    found = _gathered(inputs, rows, bias, threshold, n_entries, workspace)
    count = found.count
    # If there are too few entries above the guess, there may be more below it.
    capacity.update(count, (count > n_entries) | ((count < n_wanted) & (threshold > 0)), None)
    chosen = found.values.topk(n_wanted, sorted=False).indices.sort().values
    offsets = torch.searchsorted(chosen, found.offsets)
    return Support(found.latents[chosen], offsets, len(rows), True), found.values[chosen]


def _gathered(
    inputs: Tensor, rows: Tensor, bias: Tensor, threshold: Tensor, n_entries: int, workspace: Workspace | None
) -> Compaction:
    from sparsedict.kernels._triton import Compaction

    n_tokens, n_latents = len(inputs), len(rows)
    first = threshold.flatten()[0]
    padding = (first - first.abs() - 1).nan_to_num(0.0, 0.0, 0.0).to(inputs.dtype)
    found = Compaction(threshold, n_tokens, n_entries, padding)
    size = min(max(1, BLOCK_ENTRIES // n_latents), n_tokens)
    buffer = scratch(workspace, "block", (size, n_latents), inputs.dtype, inputs.device)
    for begin in range(0, n_tokens, size):
        block = buffer[: min(size, n_tokens - begin)]
        torch.addmm(bias, inputs[begin : begin + size], rows.T, out=block)
        found.take(begin, block)
    return found
