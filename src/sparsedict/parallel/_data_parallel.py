"""`DataParallel`, a run on several ranks that hold replicas of the dictionaries."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from sparsedict.parallel._ranks import TIMEOUT, Ranks, holding, initialise_environment, process_group


class DataParallel(Ranks):
    """A run on several ranks that hold replicas of the dictionaries and train on parts of each batch.

    The result is that of a single process with the same batches, except for rounding. A stream runs its model on a part
    of the sequences on each rank.

    Each step averages the gradients of all ranks, in one all-reduce. Counts of firing, thresholds, the control of
    ``TargetL0``, resampling and records are those of the whole batch. Rank 0 shows progress, calls callbacks and writes
    checkpoints, from which any number of ranks can resume.

    If a rank fails or is killed, the others raise a `RankError` that names it. A signal that stops one rank, such as
    Ctrl-C, stops all ranks after a common checkpoint.

    Args:
        group: A process group, or a mesh with one dimension; by default all processes.
        check_every: Steps between comparisons of the weights of all ranks.
        timeout: Longest wait for another rank, after which the run ends. It must be longer than the longest difference
            between ranks, such as the time to write a checkpoint.

    Raises:
        RuntimeError: If ``torch.distributed`` has no process group yet.

    Example:
        ``train.py``, which ``torchrun --nproc-per-node 4 train.py`` starts on four GPUs::

            parallel = sd.DataParallel.from_environment()
            history = sd.fit(sae, stream, n_tokens=100_000_000, checkpoint="run", parallel=parallel)
    """

    def __init__(
        self,
        group: dist.ProcessGroup | DeviceMesh | None = None,
        *,
        check_every: int = 100,
        timeout: timedelta = TIMEOUT,
    ) -> None:
        found = process_group("DataParallel", group)
        super().__init__(found, found, check_every=check_every, timeout=timeout)

    @classmethod
    def from_environment(cls, *, check_every: int = 100, timeout: timedelta = TIMEOUT) -> DataParallel:
        """Returns the run of the processes that ``torchrun`` started, one for each GPU or CPU process.

        It initialises ``torch.distributed``, unless that was done before, and selects the GPU of this process.

        Args:
            check_every: See the class.
            timeout: See the class.

        Raises:
            RuntimeError: If the process wasn't started by ``torchrun``.
        """
        initialise_environment(timeout)
        return cls(check_every=check_every, timeout=timeout)

    def describe(self, dictionary: Any) -> str:
        gradients = sum(p.nbytes for p in dictionary.parameters() if p.requires_grad)
        return (
            f"data parallel: {self.n_ranks} ranks, each with a replica and 1 / {self.n_ranks} of each batch. Each rank "
            f"holds {holding(dictionary)}. {gradients / 2**20:,.1f} MiB of gradients are averaged in each step"
        )

    def __repr__(self) -> str:
        return f"DataParallel(rank={self.rank}, n_ranks={self.n_ranks})"
