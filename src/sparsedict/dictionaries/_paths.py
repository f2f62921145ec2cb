"""Choice between dense and sparse products, in one table for all dictionaries, devices and backends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch

from sparsedict.kernels import StepContext, can_select, can_select_within, compacts
from sparsedict.selections import Selection

DENSE_SHARE = 1 / 16
"""Share of active entries above which training multiplies dense arrays (see ``benchmarks.density``)."""


class Path(Enum):
    """How pre-activations on the support are found and stored."""

    WITHIN_CAPACITY = (
        "selected block by block into memory of fixed capacity; the host never reads the number of entries"
    )
    SELECTED = "selected block by block; other pre-activations are not stored"
    GATHERED = "all are computed, and entries on the support are gathered"
    DENSE = "all are computed and stored"


@dataclass(frozen=True)
class Conditions:
    """The conditions that determine the path.

    Attributes:
        stored: Stored entries are required, even if dense products are faster.
        training: Gradients are required.
        elementwise: The activation can be computed on all pre-activations.
        within_capacity: The step has a capacity, and the rule can select within it.
        selectable: The encoder is affine, and the rule can be applied block by block without waiting for the device.
        counts_wait: Reading the number of entries would make the host wait for the device.
    """

    stored: bool
    training: bool
    elementwise: bool
    within_capacity: bool
    selectable: bool
    counts_wait: bool

    @classmethod
    def from_batch(
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
            rule: Selection rule of the activation; ``None`` without a rule or an affine encoder.
            context: Context of the step.
            device: Device of the batch.
            n_tokens: Number of tokens in the batch.
            n_latents: Number of latents.
            elementwise: Whether the activation is elementwise.
            stored: Whether stored entries are required.
        """
        total, max_entries = n_tokens * n_latents, most_stored(n_tokens, n_latents)
        return cls(
            stored=stored,
            training=context.training,
            elementwise=elementwise,
            within_capacity=can_select_within(context.capacity, rule, device, total=total, max_entries=max_entries),
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
