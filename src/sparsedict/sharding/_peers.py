"""`Peers`, the collectives of a process group that sharded dictionaries use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh

from sparsedict.parallel import CollectiveError, collective

# The second name is that of PyTorch before 2.13.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Peers:
    """The processes of a group. All of them must call the same methods in the same order.

    A copy refers to the same group.

    Args:
        group: The process group; ``None`` for all processes.
        host: A group of the same processes for tensors on the CPU; by default ``group``.

    Attributes:
        rank: Index of this process in the group.
        size: Number of processes.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, host: dist.ProcessGroup | None = None) -> None:
        self.group: dist.ProcessGroup | None = group
        self._host = group if host is None else host
        self.rank: int = dist.get_rank(group)
        self.size: int = dist.get_world_size(group)
        self._is_blocked = False
        self._is_closed = False

    def close(self) -> None:
        """Drops the group for tensors on the CPU after a failure."""
        self._host = None
        self._is_closed = True
        mesh = self.__dict__.pop("mesh", None)
        # DTensor keeps the mesh in caches, and the mesh refers to the group.
        getattr(mesh, "_pg_registry", {}).clear()

    @cached_property
    def mesh(self) -> DeviceMesh:
        """The processes as a mesh of CPU processes, for tensors whose rows they share."""
        group = dist.group.WORLD if self._host is None else self._host
        assert group is not None  # a member has the rank
        return DeviceMesh.from_group(group, "cpu")

    def __deepcopy__(self, memo: dict[int, Any]) -> Peers:
        return self

    def __repr__(self) -> str:
        return f"Peers(rank={self.rank}, size={self.size})"

    def sum(self, values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Returns the sum over all processes.

        The gradient of the sum is the gradient of each summand, without communication. It is exact if all processes
        compute the same function of the sum.
        """
        return _Sum.apply(values, self)

    def spread(self, values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Returns values that are equal on all processes. Their gradient is the sum of those of all processes."""
        return _Spread.apply(values, self)

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Context for code that runs on some processes only, in which a collective operation is an error."""
        self._is_blocked = True
        try:
            yield
        finally:
            self._is_blocked = False

    def _check(self) -> None:
        if self._is_closed:
            raise CollectiveError("The connections to other processes were closed, because one of them failed.")
        if self._is_blocked:
            raise RuntimeError(
                "The latents of the dictionary are divided among processes, so one process alone, as in a callback, "
                "can't encode or reconstruct. Do so after training."
            )

    def sum_(self, values: Tensor) -> None:
        """Replaces values by their sum over all processes."""
        self._check()
        with collective():
            dist.all_reduce(values, group=self._group_of(values))

    def gather(self, values: Shaped[Tensor, ...]) -> Shaped[Tensor, "n_processes ..."]:
        """Returns the values of all processes, which have equal shapes, by rank."""
        self._check()
        values = values.contiguous()
        found = values.new_empty(self.size, *values.shape)
        with collective():
            _all_gather(found.view(-1), values.view(-1), group=self._group_of(values))
        return found

    def _group_of(self, values: Tensor) -> dist.ProcessGroup | None:
        return self._host if values.device.type == "cpu" else self.group


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, peers: Peers) -> Tensor:
        found = values.clone(memory_format=torch.contiguous_format)
        peers.sum_(found)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad_outputs[0], None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, peers: Peers) -> Tensor:
        ctx.peers = peers
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        total = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        ctx.peers.sum_(total)
        return total, None
