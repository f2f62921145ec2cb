"""The choice between dense and sparse products: one table for all dictionaries, devices and backends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch

from sparsedict.kernels import StepContext, can_select, can_select_within, compacts
from sparsedict.selections import Selection

DENSE_SHARE = 1 / 16
"""Share of active entries above which training multiplies dense arrays (see ``benchmarks.density``)."""


class Path(Enum):
    """How the pre-activations that matter are found."""

    WITHIN_CAPACITY = "selected block by block, into memory for a number of entries that the host doesn't know"
    SELECTED = "selected block by block; the other pre-activations are never held"
    GATHERED = "all are computed, and those on the activation's support gathered"
    DENSE = "all are computed and kept"


@dataclass(frozen=True)
class Conditions:
    """The conditions that decide on the path.

    Attributes:
        stored: The caller asks for stored entries, even where there are many.
        training: Gradients are wanted.
        elementwise: The activation may also be computed on all pre-activations.
        within_capacity: The step has a capacity, and the rule can select within it.
        selectable: The encoder is affine, and the rule can be applied block by block without waiting for the device.
        counts_wait: The host would wait for the device to read the number of entries.
    """

    stored: bool
    training: bool
    elementwise: bool
    within_capacity: bool
    selectable: bool
    counts_wait: bool

    @classmethod
    def of(
        cls,
        rule: Selection | None,
        context: StepContext,
        device: torch.device,
        *,
        n_tokens: int,
        n_latents: int,
        elementwise: bool,
        stored: bool,
    ) -> Conditions:
        """Reads the conditions of a batch.

        Args:
            rule: The activation's rule; ``None`` where it has none or the encoder isn't affine.
            context: That of the step.
            device: Where the batch is.
            n_tokens: Tokens in the batch.
            n_latents: Width of the dictionary.
            elementwise: Whether the activation is.
            stored: Whether the caller asks for stored entries.
        """
        total, most = n_tokens * n_latents, most_stored(n_tokens, n_latents)
        return cls(
            stored=stored,
            training=context.training,
            elementwise=elementwise,
            within_capacity=can_select_within(context.capacity, rule, device, total=total, most=most),
            selectable=can_select(rule, device),
            counts_wait=device.type != "cpu" or compacts(device),
        )

    @property
    def path(self) -> Path:
        """The path: the first row of the table whose conditions hold."""
        in_step = self.training and not self.stored
        table = (
            (in_step and self.within_capacity, Path.WITHIN_CAPACITY),
            (in_step and self.elementwise and self.counts_wait, Path.DENSE),
            (self.selectable, Path.SELECTED),
            (True, Path.GATHERED),
        )
        return next(path for holds, path in table if holds)

    @property
    def path_of_many(self) -> Path:
        """The path where :attr:`path` finds more entries than :func:`most_stored`."""
        return Path.DENSE if self.elementwise and not self.stored else Path.GATHERED


def most_stored(n_tokens: int, n_latents: int) -> int:
    """Returns the number of entries above which dense products are faster."""
    return int(DENSE_SHARE * n_tokens * n_latents)
