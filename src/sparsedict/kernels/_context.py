"""`StepContext`, the memory and the selection rule that a training step passes to the encoder."""

from __future__ import annotations

from dataclasses import dataclass

from sparsedict.kernels._capacity import Capacity
from sparsedict.kernels._workspace import Workspace
from sparsedict.parallel import WholeBatch


@dataclass(frozen=True, eq=False)
class StepContext:
    """Options that a training step passes to the encoder: memory to reuse, and how to select entries.

    ``fit`` creates one for each step. The default reuses no memory and always synchronises, so a custom training step
    doesn't need one.

    Attributes:
        training: Whether gradients are needed. Dense products then replace sparse ones if many entries are active,
            which is faster and doesn't synchronise with an accelerator.
        workspace: Memory to reuse on the CPU; ``None`` to allocate new tensors.
        capacity: Enables selection without synchronisation. The training step must check
            :meth:`~sparsedict.kernels.Capacity.was_sufficient` after the step. ``None`` disables it.
        whole: The batch over all ranks, of which the rows of the step are a part; ``None`` if they are all.
    """

    training: bool = True
    workspace: Workspace | None = None
    capacity: Capacity | None = None
    whole: WholeBatch | None = None
