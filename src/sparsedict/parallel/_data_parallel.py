"""`DataParallel`, a run on several ranks that hold replicas of the dictionaries."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from sparsedict import checks
from sparsedict.parallel._channels import Channels, CollectiveError
from sparsedict.parallel._checksums import check_equal
from sparsedict.parallel._errors import RankError
from sparsedict.parallel._failures import COMMON, GRACE, LOST, Reports, rank_error
from sparsedict.parallel._gradients import FlatGradients
from sparsedict.parallel._order import order_of_parts
from sparsedict.parallel._parallel import Module, Parallel, Value

TIMEOUT = timedelta(minutes=10)
_RUNS = itertools.count()


class DataParallel(Parallel):
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
        self._check_every = checks.at_least("check_every", check_every, 1)
        if timeout <= timedelta(0):
            raise ValueError(f"`timeout` must be a positive timedelta, got {timeout!r}.")
        self._timeout = timeout
        self._channels = Channels(_process_group(group), timeout)
        self.rank: int = dist.get_rank(self._channels.group)
        self.part: int = self.rank
        self.n_ranks: int = dist.get_world_size(self._channels.group)
        self.n_parts: int = self.n_ranks
        self._gradients = FlatGradients(self._channels)
        self._is_broken = False

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
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing and not dist.is_initialized():
            raise RuntimeError(
                f"The process must be started by `torchrun --nproc-per-node N SCRIPT`, but {', '.join(missing)} "
                "isn't set in the environment."
            )
        uses_cuda = torch.cuda.is_available()
        if uses_cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if uses_cuda else "gloo", timeout=timeout)
        return cls(check_every=check_every, timeout=timeout)

    @contextmanager
    def running(self) -> Iterator[None]:
        if self._is_broken:
            raise RuntimeError(
                "`parallel` must have ranks that all run, but a rank of it failed. Start the processes again."
            )
        reports = Reports(self._run_name(), self.rank, self.n_ranks)
        try:
            yield
        except CollectiveError as error:
            self._end()
            reports.report(LOST)
            raise rank_error(reports.wait(GRACE), self.n_ranks, self._timeout) from error
        except BaseException as error:
            reports.report(f"{type(error).__name__}: {error}")
            found = reports.wait(COMMON)
            # If all ranks raise, they have agreed on the error, and the connections are intact.
            if found is None or len(found) < self.n_ranks:
                self._end()
            raise

    def _run_name(self) -> str:
        """Returns a name of the run, the same on all ranks and new for each run."""
        return self.share(f"{os.getpid()}-{next(_RUNS)}")

    def _end(self) -> None:
        self._is_broken = True
        self._channels.abort()

    @contextmanager
    def divided(self, dictionary: Module) -> Iterator[Module]:
        yield dictionary

    def exchange(self, *numbers: int) -> list[tuple[int, ...]]:
        return self._channels.exchange(numbers)

    def share(self, value: Value) -> Value:
        return self._channels.share(value)

    def gather(self, value: Value) -> list[Value]:
        return self._channels.gather(value)

    def values(self, tensor: Tensor) -> Tensor:
        return torch.cat(self._channels.rows(tensor))

    def among_largest(self, values: Tensor, n: int) -> Tensor:
        parts = self._channels.rows(values)
        found, start = torch.cat(parts), sum(len(part) for part in parts[: self.rank])
        return among_largest(found, n)[start : start + len(values)]

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            self._channels.broadcast_(tensor)

    def sum(self, tensor: Tensor) -> Tensor:
        return self._channels.sum(tensor)

    def rows(self, tensor: Tensor) -> Tensor:
        parts = self._channels.rows(tensor)
        order = order_of_parts(tuple(map(len, parts)), tensor.device)
        return torch.cat(parts).index_select(0, order)

    def exchange_rows(self, tensor: Tensor, n_to: Sequence[int], n_from: Sequence[int]) -> Tensor:
        return self._channels.exchange_rows(tensor, list(n_to), list(n_from))

    def mean_gradients_(self, parameters: Iterable[Tensor], share: float) -> None:
        self._gradients.mean_([parameter for parameter in parameters if parameter.requires_grad], share)

    def check_equal(self, tensors: Mapping[str, Tensor], step: int) -> None:
        if step % self._check_every == 0:
            check_equal(self._channels, tensors, step)

    def describe(self, dictionary: Any) -> str:
        tensors = [*dictionary.parameters(), *dictionary.buffers()]
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        gradients = sum(p.numel() * p.element_size() for p in dictionary.parameters() if p.requires_grad)
        return (
            f"data parallel: {self.n_ranks} ranks, each with a replica of {n_bytes / 2**20:,.1f} MiB of weights and "
            f"1 / {self.n_ranks} of each batch; {gradients / 2**20:,.1f} MiB of gradients are averaged in each step"
        )

    def __repr__(self) -> str:
        return f"DataParallel(rank={self.rank}, n_ranks={self.n_ranks})"


def among_largest(found: Tensor, n: int) -> Tensor:
    """Returns which values are among the ``n`` largest, the first of equal ones. NaN is always among them."""
    if n >= len(found):
        return torch.ones_like(found, dtype=torch.bool)
    least = found.topk(n, sorted=False).values.min()
    above, equal = found > least, found == least
    return above | (equal & (equal.cumsum(0) <= n - above.sum())) | found.isnan()


def _process_group(group: dist.ProcessGroup | DeviceMesh | None) -> dist.ProcessGroup:
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "torch.distributed must be initialised before `DataParallel()`. Start the script by torchrun and use "
            "`sd.DataParallel.from_environment()`, or call `torch.distributed.init_process_group` first."
        )
    if isinstance(group, DeviceMesh):
        if group.ndim != 1:
            raise ValueError(f"`group` must be a mesh with one dimension, got {group.ndim}. Pass `mesh['data']`.")
        return group.get_group()
    found = dist.group.WORLD if group is None else group
    if not isinstance(found, dist.ProcessGroup):
        raise TypeError(f"`group` must be a process group or a DeviceMesh, got {type(group).__name__}.")
    if dist.get_rank(found) < 0:
        raise RankError("`group` must contain this process, which isn't a member of it.")
    return found
