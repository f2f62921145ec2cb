"""Failures of ranks: an error on one rank ends the run of all ranks, with an error that names the rank."""

from __future__ import annotations

import time
from datetime import timedelta

import torch.distributed as dist

from sparsedict.parallel._errors import RankError

GRACE = 5.0
"""Seconds in which a rank that lost a connection must report. Ranks that don't report have ended."""

COMMON = 1.0
"""Seconds in which all ranks report an error that all of them have found."""

LOST = "lost"


class Reports:
    """The reports of failures of the ranks of a run, in the key-value store of ``torch.distributed``.

    Args:
        name: Name of the run, the same on all ranks.
        rank: Number of this rank.
        n_ranks: Number of ranks.
    """

    def __init__(self, name: str, rank: int, n_ranks: int) -> None:
        self._name = name
        self._rank, self._n_ranks = rank, n_ranks
        self._store = dist.distributed_c10d._get_default_store()

    def report(self, text: str) -> None:
        """Reports the error of this rank."""
        try:
            self._store.set(self._key(self._rank), text)
        except RuntimeError:  # the process of the store has ended
            return

    def wait(self, seconds: float) -> dict[int, str] | None:
        """Waits for the reports of all ranks, and returns those that arrived; ``None`` if the store has ended."""
        found: dict[int, str] = {}
        end = time.monotonic() + seconds
        while len(found) < self._n_ranks:
            for rank in range(self._n_ranks):
                try:
                    if rank not in found and self._store.check([self._key(rank)]):
                        found[rank] = self._store.get(self._key(rank)).decode()
                except RuntimeError:
                    return None
            if time.monotonic() > end:
                break
            time.sleep(0.02)
        return found

    def _key(self, rank: int) -> str:
        return f"{self._name}/{rank}"


def rank_error(found: dict[int, str] | None, n_ranks: int, timeout: timedelta) -> RankError:
    """Returns the error of a rank that lost the connection to another one.

    Args:
        found: The reports; ``None`` if the store has ended with the process of rank 0.
        n_ranks: Number of ranks.
        timeout: Longest wait for another rank.
    """
    remedy = "Correct the cause, and resume the run from its last checkpoint with `resume=True`."
    if found is None:
        return RankError(f"Rank 0 ended, for example because it was killed. {remedy}", (0,))
    causes = {rank: text for rank, text in found.items() if text != LOST}
    if causes:
        rank, text = next(iter(causes.items()))
        return RankError(f"Rank {rank} failed: {text} {remedy}", tuple(causes))
    missing = tuple(rank for rank in range(n_ranks) if rank not in found)
    if missing:
        named = ", ".join(map(str, missing))
        return RankError(
            f"Rank {named} ended or didn't respond, for example because it was killed or ran out of memory. {remedy}",
            missing,
        )
    return RankError(f"The ranks lost their connection, or one of them took longer than {timeout}. {remedy}")
