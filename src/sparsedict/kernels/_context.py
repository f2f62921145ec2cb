from __future__ import annotations

from dataclasses import dataclass

from sparsedict.kernels._capacity import Capacity
from sparsedict.kernels._workspace import Workspace


@dataclass(frozen=True, eq=False)
class StepContext:
    """What one training step passes to the code that encodes: memory to reuse, and how entries may be selected.

    ``fit`` makes one for each step. The default has no memory and selects entries exactly, so that a step of your own
    needs none.

    Attributes:
        training: Whether gradients of the pass are wanted. Then many active entries are computed by dense products,
            which are faster, and the host of an accelerator doesn't wait for the number of entries.
        workspace: Memory to reuse on the CPU; ``None`` allocates new arrays.
        capacity: Allows selection that doesn't wait for the number of entries; check
            :meth:`~sparsedict.kernels.Capacity.was_sufficient` after the step. ``None`` forbids it.
    """

    training: bool = True
    workspace: Workspace | None = None
    capacity: Capacity | None = None
