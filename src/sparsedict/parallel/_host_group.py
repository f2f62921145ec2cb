"""Creation of process groups with a time limit, also by processes that created different groups before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from weakref import WeakSet

import torch.distributed as dist

from sparsedict.parallel._errors import RankError

_CREATED: Counter[str] = Counter()

FIRST_NUMBER = 1_000_000
"""Number of calls above those of a program. Groups with numbers from here on have names that no other group has."""

_BROKEN: WeakSet[Any] = WeakSet()
"""The stores of the processes of which one failed. PyTorch would give a new group the name of a removed one."""


def host_group(ranks: Sequence[int], timeout: timedelta, backend: str | None = "gloo") -> tuple[Any, str]:
    """Returns a new group of some processes, and a name of it. All of them must call this function, and no others.

    ``new_group`` names a group by the number of groups that the process created before, or by its number of calls. If
    these numbers differ between ranks, the ranks wait for groups with different names. Groups of a single process make
    the numbers of groups equal. Numbers of calls are replaced by the number of groups of the same ranks.

    Args:
        ranks: The processes, in ascending order.
        timeout: Longest wait for another rank.
        backend: Backend of the group; ``None`` for those of the default group.

    Raises:
        RuntimeError: If one of the processes failed before.
        RankError: If a rank doesn't create the group in time. The error names the rank.
    """
    store = _store()
    if store in _BROKEN:
        raise RuntimeError("All processes must run, but one of them failed. Start the processes again.")
    members = "-".join(map(str, ranks))
    _CREATED[members] += 1
    name = f"sparsedict/{members}/{_CREATED[members]}"
    keys = [f"{name}/created/{rank}" for rank in ranks]
    own = dist.get_rank()
    store.set(keys[list(ranks).index(own)], str(_n_groups()))
    try:
        store.wait(keys, timeout)
    except RuntimeError as error:
        # A later attempt starts from the beginning.
        _CREATED[members] -= 1
        missing = tuple(rank for rank, key in zip(ranks, keys, strict=True) if not store.check([key]))
        named = ", ".join(map(str, missing))
        raise RankError(
            f"Rank {named} didn't create a run of the ranks {', '.join(map(str, ranks))} within {timeout}. All of "
            "these ranks must create it, with the same arguments and in the same order.",
            missing,
        ) from error
    if _names_by_calls():
        with _number_of_calls(FIRST_NUMBER + _CREATED[members]):
            return dist.new_group(list(ranks), timeout, backend, use_local_synchronization=True), name
    n_wanted = max(int(store.get(key)) for key in keys)
    while _n_groups() < n_wanted:
        dist.new_group([own], timeout, "gloo", use_local_synchronization=True)
    return dist.new_group(list(ranks), timeout, backend, use_local_synchronization=True), name


def close_group(group: dist.ProcessGroup) -> None:
    """Removes a group after a failure. Its connections are closed once nothing refers to it."""
    dist.destroy_process_group(group)
    _BROKEN.add(_store())


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


def _n_groups() -> int:
    return len(dist.distributed_c10d._world.pg_names)


def _names_by_calls() -> bool:
    """Returns whether ``new_group`` names a group by the number of calls on this rank, as since PyTorch 2.14."""
    return "group_count" in dist.distributed_c10d._hash_ranks_to_str.__code__.co_names


@contextmanager
def _number_of_calls(number: int) -> Iterator[None]:
    """Returns a context with another number of calls of ``new_group``.

    A group of some ranks would otherwise change the number on these ranks only, and later groups of all ranks, such as
    those of a mesh, would have different names.
    """
    world = dist.distributed_c10d._world
    before, world.group_count = world.group_count, number
    try:
        yield
    finally:
        world.group_count = before
