"""Entries chosen by a rule without waiting for their number: room is kept for as many as there should be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.kernels._backend import compacts
from sparsedict.kernels._select import first_threshold, like
from sparsedict.kernels._workspace import scratch
from sparsedict.latents import Support
from sparsedict.selections import Above, LargestOfBatch, Selection

if TYPE_CHECKING:
    from sparsedict.kernels._triton import Compaction

HEADROOM = 1.25
"""Entries that there is room for at least, over those of the step before."""

LEAST_ROOM = 2**10

CANDIDATES = 2
"""Room for candidates of the largest of a batch, over those wanted."""

GUESS_SHARE = 0.8
"""Share of a guessed threshold above which candidates are gathered.

Lower than where the host can look again at once: too few candidates cost the whole step once more.
"""

BLOCK_ENTRIES = 2**26
"""Pre-activations held at once, enough to keep an accelerator busy."""

_here = threading.local()


class Room:
    """How many entries one step keeps room for, and whether that was enough.

    A step is queued with room for somewhat more entries than the step before had, or densely where these were many.
    While the device works, the host reads how many there were. Where they didn't fit, what was computed is worth
    nothing, and the step is to be computed once more, outside. So what a step does depends on the densities of the
    steps before and on its own data alone.

    Args:
        density: Share of entries that the step before stored.
    """

    def __init__(self, density: float) -> None:
        self.density: float = density
        self._readings: list[tuple[_Reading, int | None]] = []

    @contextmanager
    def used(self) -> Iterator[None]:
        """Lets what runs inside, in this thread, choose entries without waiting for their number."""
        before = getattr(_here, "room", None)
        _here.room = self
        try:
            yield
        finally:
            _here.room = before

    def capacity(self, total: int, most: int) -> int | None:
        """Returns for how many of ``total`` entries to keep room; ``None`` where more than ``most`` may be needed."""
        needed = int(HEADROOM * self.density * total)
        if needed > most:
            return None
        # Few different sizes: memory that was freed fits again.
        return min(max(1 << needed.bit_length(), LEAST_ROOM), total)

    def note(self, count: Tensor, failed: Tensor, total: int | None) -> None:
        """Takes the number of entries found and whether they are unfit for use, which the device doesn't know yet.

        Args:
            count: Entries found.
            failed: Whether the step must be computed once more.
            total: How many there could be, where the next step's room depends on it.
        """
        self._readings.append((_Reading(torch.stack((count, failed.to(count.dtype)))), total))

    def sufficed(self) -> bool:
        """Returns whether what was computed is right, and goes on to the next step's density.

        Waits until entries have been chosen, not for what the device was given to do with them.
        """
        found = [(*reading.wait(), total) for reading, total in self._readings]
        self._readings = []
        shares = [count / total for count, _, total in found if total]
        self.density = max(shares, default=self.density)
        return not any(failed for _, failed, _ in found)


class _Reading:
    """Two numbers on their way from the device to the host."""

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


@torch.no_grad()
def select_in_room(
    inputs: Float[Tensor, "n_tokens d"],
    rows: Float[Tensor, "n_latents d"],
    bias: Float[Tensor, " n_latents"],
    rule: Selection,
    *,
    most: int,
) -> tuple[Support, Float[Tensor, " n_entries"]] | None:
    """Returns the entries that a rule picks, padded, and the pre-activations there, without history.

    Padding has a pre-activation at which the rule wouldn't pick it. ``None`` where no room is in use, the backend or
    the rule isn't made for it, or more than ``most`` entries of an :class:`Above` are to be expected.

    Args:
        inputs: One vector for each token.
        rows: One row for each latent, such as an encoder.
        bias: One number for each latent.
        rule: ``Above`` or ``LargestOfBatch``.
        most: Entries beyond which dense products are faster.
    """
    room: Room | None = getattr(_here, "room", None)
    if room is None or not compacts(inputs.device):
        return None
    dtype, total = inputs.dtype, len(inputs) * len(rows)
    if torch.is_autocast_enabled(inputs.device.type):
        low = torch.get_autocast_dtype(inputs.device.type)
        inputs, rows, bias = inputs.to(low), rows.to(low), bias.to(low)
    if isinstance(rule, Above):
        capacity = room.capacity(total, most)
        if capacity is None:
            return None
        found = _gathered(inputs, rows, bias, like(rule.threshold, inputs), capacity)
        room.note(found.count, found.count > capacity, total)
        return Support(found.latents, found.offsets, len(rows), True), found.values.to(dtype)
    if isinstance(rule, LargestOfBatch):
        support, values = _largest_of_batch(inputs, rows, bias, rule, room)
        return support, values.to(dtype)
    return None


def note_density(pre: Float[Tensor, "n_tokens n_latents"], rule: Selection | None) -> None:
    """Has the room in use, if any, know how many of all pre-activations a rule would have picked."""
    room: Room | None = getattr(_here, "room", None)
    if room is None or not isinstance(rule, Above) or not compacts(pre.device):
        return
    from sparsedict.kernels._triton import counts_above

    count = counts_above(pre.detach().contiguous(), like(rule.threshold, pre)).sum()
    room.note(count, torch.zeros_like(count), pre.numel())


def _largest_of_batch(
    inputs: Tensor, rows: Tensor, bias: Tensor, rule: LargestOfBatch, room: Room
) -> tuple[Support, Tensor]:
    total = len(inputs) * len(rows)
    n_wanted = min(rule.k * len(inputs), total)
    capacity = min(CANDIDATES * n_wanted, total)
    threshold = like(first_threshold(rule, inputs, GUESS_SHARE), inputs)
    found = _gathered(inputs, rows, bias, threshold, capacity)
    count = found.count
    # Too few above a guess: there may be more below it.
    room.note(count, (count > capacity) | ((count < n_wanted) & (threshold > 0)), None)
    chosen = found.values.topk(n_wanted, sorted=False).indices.sort().values
    offsets = torch.searchsorted(chosen, found.offsets)
    return Support(found.latents[chosen], offsets, len(rows), True), found.values[chosen]


def _gathered(inputs: Tensor, rows: Tensor, bias: Tensor, threshold: Tensor, capacity: int) -> Compaction:
    from sparsedict.kernels._triton import Compaction

    n_tokens, n_latents = len(inputs), len(rows)
    first = threshold.flatten()[0]
    padding = (first - first.abs() - 1).nan_to_num(0.0, 0.0, 0.0).to(inputs.dtype)
    found = Compaction(threshold, n_tokens, capacity, padding)
    size = min(max(1, BLOCK_ENTRIES // n_latents), n_tokens)
    buffer = scratch("block", (size, n_latents), inputs.dtype, inputs.device)
    for begin in range(0, n_tokens, size):
        block = buffer[: min(size, n_tokens - begin)]
        torch.addmm(bias, inputs[begin : begin + size], rows.T, out=block)
        found.take(begin, block)
    return found
