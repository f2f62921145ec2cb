"""`Ranks`, the collectives and failures that all runs on several ranks have in common."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from sparsedict import checks
from sparsedict.parallel._channels import Channels
from sparsedict.parallel._checksums import check_equal
from sparsedict.parallel._errors import RankError
from sparsedict.parallel._failures import Reports
from sparsedict.parallel._gradients import FlatGradients
from sparsedict.parallel._order import order_of_parts
from sparsedict.parallel._parallel import Parallel, Value
from sparsedict.parallel._selection import among_largest

TIMEOUT = timedelta(minutes=10)


class Ranks(Parallel):
    """A run on several ranks, of which those with the same latents hold different parts of each batch.

    Args:
        group: All ranks of the run.
        parts: The ranks that hold the same latents, one for each part of a batch; ``None`` if there is one part.
        check_every: Steps between comparisons of the weights of all ranks.
        timeout: Longest wait for another rank, after which the run ends.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        parts: dist.ProcessGroup | None,
        *,
        check_every: int,
        timeout: timedelta,
    ) -> None:
        self._check_every = checks.at_least("check_every", check_every, 1)
        if timeout <= timedelta(0):
            raise ValueError(f"`timeout` must be a positive timedelta, got {timeout!r}.")
        self._timeout = timeout
        self._channels = Channels(group, timeout)
        self._parts: Channels | None = None
        if parts is not None:
            self._parts = self._channels if parts is group else Channels(parts, timeout)
        self.rank: int = self._channels.rank
        self.n_ranks: int = len(self._channels.ranks)
        self.part: int = 0 if self._parts is None else self._parts.rank
        self.n_parts: int = 1 if self._parts is None else len(self._parts.ranks)
        self._gradients = None if self._parts is None else FlatGradients(self._parts)
        self._is_broken = False
        self._n_runs = 0
        self._check_same("check_every", check_every)
        self._check_same("timeout", timeout)

    def _check_same(self, name: str, value: object) -> None:
        found = self.gather(value)
        if any(other != found[0] for other in found):
            rank = next(rank for rank, other in enumerate(found) if other != found[0])
            raise ValueError(
                f"`{name}` must be the same on all ranks, but it is {found[0]!r} on rank 0 and {found[rank]!r} on rank "
                f"{rank}. Pass the same value on all ranks."
            )

    @contextmanager
    def running(self) -> Iterator[None]:
        if self._is_broken:
            raise RuntimeError(
                "`parallel` must have ranks that all run, but a rank of it failed. Start the processes again."
            )
        self._n_runs += 1
        name = f"{self._channels.name}/{self._n_runs}"
        with Reports(name, self.rank, self.n_ranks, self._timeout, self.close).running():
            yield

    def close(self) -> None:
        """Closes all connections after a failure, so that ranks that wait for this one receive an error."""
        self._is_broken = True
        for channels in filter(None, (self._channels, self._parts)):
            channels.close()

    def exchange(self, *numbers: int) -> list[tuple[int, ...]]:
        return self._channels.exchange(numbers)

    def share(self, value: Value) -> Value:
        return self._channels.share(value)

    def gather(self, value: Value) -> list[Value]:
        return self._channels.gather(value)

    def values(self, tensor: Tensor) -> Tensor:
        return torch.cat(self._channels.rows(tensor))

    def among_largest(self, values: Tensor, n: int, positions: Callable[[], Tensor]) -> Tensor:
        return among_largest(values, n, positions, self._channels)

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            self._channels.broadcast_(tensor)

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor if self._parts is None else self._parts.sum(tensor)

    def rows(self, tensor: Tensor) -> Tensor:
        if self._parts is None:
            return tensor
        parts = self._parts.rows(tensor)
        order = order_of_parts(tuple(map(len, parts)), tensor.device)
        return torch.cat(parts).index_select(0, order)

    def exchange_rows(self, tensor: Tensor, n_to: Sequence[int], n_from: Sequence[int]) -> Tensor:
        return tensor if self._parts is None else self._parts.exchange_rows(tensor, list(n_to), list(n_from))

    def mean_gradients_(self, parameters: Iterable[Tensor], share: float) -> None:
        if self._gradients is not None:
            self._gradients.mean_([parameter for parameter in parameters if parameter.requires_grad], share)

    def check_equal(self, tensors: Mapping[str, Tensor], step: int) -> None:
        if step % self._check_every == 0:
            check_equal(self._channels, tensors, step)


def holding(dictionary: Any, n_slices: int = 1) -> str:
    """Returns the parts of a dictionary in the memory of one rank: weights, gradients and optimiser state.

    Args:
        dictionary: The whole dictionary.
        n_slices: Number of slices into which its latents are divided.
    """
    weights = {id(weight): weight for weight in (*dictionary.parameters(), *dictionary.buffers())}
    held = sum(weight.nbytes for weight in weights.values()) / n_slices / 2**20
    trained = sum(p.nbytes for p in dictionary.parameters() if p.requires_grad) / n_slices / 2**20
    return (
        f"{held:,.1f} MiB of weights, {trained:,.1f} MiB of gradients, {2 * trained:,.1f} MiB of the moments of Adam "
        f"and {held:,.1f} MiB of the last good weights"
    )


def process_group(name: str, group: dist.ProcessGroup | DeviceMesh | None) -> dist.ProcessGroup:
    """Returns a process group that contains this process.

    Args:
        name: Name of the class in messages.
        group: A process group, a mesh with one dimension, or ``None`` for all processes.

    Raises:
        RuntimeError: If ``torch.distributed`` has no process group yet.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            f"torch.distributed must be initialised before `{name}()`. Start the script by torchrun and use "
            f"`sd.{name}.from_environment()`, or call `torch.distributed.init_process_group` first."
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


def initialise_environment(timeout: timedelta) -> None:
    """Initialises ``torch.distributed`` in a process that ``torchrun`` started, and selects its GPU.

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
        # The threads of an open group may abort the interpreter at its exit.
        atexit.register(_destroy)


def _destroy() -> None:
    with suppress(Exception):
        dist.destroy_process_group()
