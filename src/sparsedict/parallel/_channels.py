"""`Channels`, the process groups of a run: one for numbers on the host, and one for each type of device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sparsedict.parallel._host_group import close_group, host_group


class CollectiveError(RuntimeError):
    """Raised if a collective operation failed, usually because another rank ended."""


@contextmanager
def collective() -> Iterator[None]:
    """Returns a context in which the errors of collective operations become `CollectiveError`."""
    try:
        yield
    except CollectiveError:
        raise
    except RuntimeError as error:
        raise CollectiveError(f"{type(error).__name__}: {error}") from error


class Channels:
    """The process groups over which the ranks of a run communicate.

    Numbers and tensors on the CPU are sent by gloo, in a group of its own with a bounded wait. Tensors on another
    device are sent by the user's group, or by way of the CPU if that group has no backend for the device.

    Args:
        group: The user's process group.
        timeout: Longest wait for another rank.

    Attributes:
        group: See the argument.
        ranks: Numbers of the processes of the group among all processes.
        rank: Index of this process in the group.
        name: A name of the channels, the same on all of these processes.
    """

    def __init__(self, group: dist.ProcessGroup, timeout: timedelta) -> None:
        self.group: dist.ProcessGroup = group
        self.ranks: list[int] = dist.get_process_group_ranks(group)
        self.rank: int = dist.get_rank(group)
        self.name: str
        self._host: Any
        self._host, self.name = host_group(self.ranks, timeout)
        self._devices = {
            device
            for device, backend in _backends(group).items()
            if device != "cpu" and backend not in ("gloo", "fake")
        }

    @property
    def host(self) -> Any:
        """A group of the same processes, for tensors on the CPU.

        Raises:
            CollectiveError: If the connections were closed after a failure.
        """
        if self._host is None:
            raise CollectiveError("The connections to other ranks were closed, because one of them failed.")
        return self._host

    def sent(self, tensor: Tensor) -> tuple[Tensor, Any]:
        """Returns a detached, contiguous tensor on a device that a group supports, and the group."""
        tensor = tensor.detach().contiguous()
        if tensor.device.type in self._devices:
            return tensor, self.group
        return tensor.cpu(), self.host

    def exchange(self, numbers: tuple[int, ...]) -> list[tuple[int, ...]]:
        own = torch.tensor(numbers, dtype=torch.int64, device="cpu")
        with collective():
            found = [torch.empty_like(own) for _ in self.ranks]
            dist.all_gather(found, own, group=self.host)
        return [tuple(row.tolist()) for row in found]

    def share(self, value: Any) -> Any:
        held = [value]
        with collective():
            dist.broadcast_object_list(held, src=self.ranks[0], group=self.host, device=torch.device("cpu"))
        return held[0]

    def gather(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * len(self.ranks)
        with collective():
            dist.all_gather_object(found, value, group=self.host)
        return found

    def sum(self, tensor: Tensor) -> Tensor:
        own, group = self.sent(tensor)
        # A tensor that was copied from another device may be changed.
        own = own.clone() if own.device == tensor.device else own
        with collective():
            dist.all_reduce(own, group=group)
        return own.to(tensor.device)

    def broadcast_(self, tensor: Tensor) -> None:
        own, group = self.sent(tensor)
        with collective():
            dist.broadcast(own, src=self.ranks[0], group=group)
        tensor.detach().copy_(own)

    def rows(self, tensor: Tensor) -> list[Tensor]:
        """Returns the rows of each rank, whose numbers may differ."""
        sizes = [row[0] for row in self.exchange((len(tensor),))]
        own, group = self.sent(tensor)
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own
        with collective():
            found = [torch.empty_like(padded) for _ in self.ranks]
            dist.all_gather(found, padded, group=group)
        return [rows[:size].to(tensor.device) for rows, size in zip(found, sizes, strict=True)]

    def exchange_rows(self, tensor: Tensor, n_to: list[int], n_from: list[int]) -> Tensor:
        own, group = self.sent(tensor)
        received = own.new_empty(sum(n_from), *own.shape[1:])
        with collective():
            dist.all_to_all_single(received, own, n_from, n_to, group=group)
        return received.to(tensor.device)

    def close(self) -> None:
        """Closes all connections, so that ranks that wait for this one receive an error."""
        if self._devices:
            with suppress(RuntimeError, AttributeError):  # a backend without this operation
                self.group.abort()
        if self._host is not None:
            # gloo closes its connections when nothing refers to the group.
            close_group(self._host)
            self._host = None


def _backends(group: dist.ProcessGroup) -> dict[str, str]:
    """Returns the backend of each type of device."""
    pairs = (entry.partition(":") for entry in dist.get_backend_config(group).split(","))
    return {device: backend for device, _, backend in pairs}
