"""Failures of ranks: an error on one rank ends the run of all ranks, with an error that names the rank."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch.distributed as dist

from sparsedict.parallel._channels import CollectiveError
from sparsedict.parallel._errors import RankError

GRACE = 5.0
"""Seconds in which a rank that lost a connection must report. Ranks that don't report have ended."""

COMMON = 1.0
"""Seconds in which all ranks report an error that all of them have found."""

REMEDY = "Correct the cause, and resume the run from its last checkpoint with `resume=True`."


@dataclass(frozen=True)
class Report:
    """The report of a rank that left a run by an error.

    Attributes:
        text: The error; empty if the rank lost the connection to another one.
        is_signal: Whether a signal ended the rank. ``torchrun`` sends one to all ranks if one of them failed.
        failed: Numbers of the ranks that the error names; ``None`` if it is the rank's own error.
        missing: Numbers of those that ended without an error.
    """

    text: str = ""
    is_signal: bool = False
    failed: Sequence[int] | None = None
    missing: Sequence[int] = ()

    @classmethod
    def of_error(cls, error: BaseException) -> Report:
        if isinstance(error, RankError):
            return cls(str(error), failed=error.ranks, missing=error.missing)
        return cls(f"{type(error).__name__}: {error}", is_signal=isinstance(error, SystemExit))


class Reports:
    """The reports of failures of the ranks of a run, in the key-value store of ``torch.distributed``.

    Args:
        name: Name of the run, the same on all ranks.
        rank: Number of this rank.
        n_ranks: Number of ranks.
        timeout: Longest wait for another rank.
        end: Closes the connections of this rank, so that ranks that wait for it receive an error.
    """

    def __init__(self, name: str, rank: int, n_ranks: int, timeout: timedelta, end: Callable[[], None]) -> None:
        self._name = name
        self._rank, self._n_ranks = rank, n_ranks
        self._timeout = timeout
        self._end = end
        self._store = dist.distributed_c10d._get_default_store()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Returns the context of a run. An error on one rank ends the context of every rank with an error.

        Raises:
            RankError: On leaving the context, if another rank failed. The error names the rank and its error.
        """
        try:
            yield
        except CollectiveError as error:
            raise self.lost(error) from error
        except BaseException as error:
            found = self._exchange(Report.of_error(error), COMMON)
            # If all ranks raise, they have agreed on the error, and the connections are intact.
            if found is None or len(found) < self._n_ranks:
                _clear_frames(error)
                self._end()
            if isinstance(error, SystemExit) and found and any(r.text and not r.is_signal for r in found.values()):
                # The signal is a consequence of the failure.
                raise rank_error(found, self._n_ranks, self._timeout) from error
            raise

    def lost(self, error: CollectiveError) -> RankError:
        """Closes the connections after a failed collective operation. Returns an error that names the failed rank."""
        _clear_frames(error)
        self._end()
        return rank_error(self._exchange(Report(), GRACE), self._n_ranks, self._timeout)

    def _exchange(self, own: Report, seconds: float) -> dict[int, Report] | None:
        """Reports this rank's error, and returns the reports that arrive; ``None`` if the store has ended."""
        with _terminations_ignored():
            try:
                self._store.set(self._key(self._rank), json.dumps(asdict(own)))
            except RuntimeError:
                return None
            return self._wait(seconds)

    def _wait(self, seconds: float) -> dict[int, Report] | None:
        found: dict[int, Report] = {}
        end = time.monotonic() + seconds
        while len(found) < self._n_ranks:
            for rank in range(self._n_ranks):
                try:
                    if rank not in found and self._store.check([self._key(rank)]):
                        found[rank] = Report(**json.loads(self._store.get(self._key(rank))))
                except RuntimeError:
                    return None
            if time.monotonic() > end:
                break
            time.sleep(0.02)
        return found

    def _key(self, rank: int) -> str:
        return f"{self._name}/{rank}"


def _clear_frames(error: BaseException | None) -> None:
    """Clears the local variables of the functions that raised an error, which refer to process groups."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@contextmanager
def _terminations_ignored() -> Iterator[None]:
    """Returns a context without SIGTERM, which ``torchrun`` sends at once if a rank ended: the run ends anyway."""
    is_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if is_main_thread else None
    if before is None:
        yield
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_cause(report: Report) -> bool:
    """Returns whether a report has an error that isn't the consequence of the failure of another rank."""
    return bool(report.text) and not report.is_signal and report.failed is None


def rank_error(found: dict[int, Report] | None, n_ranks: int, timeout: timedelta) -> RankError:
    """Returns the error of a rank that lost the connection to another one.

    Args:
        found: The reports; ``None`` if the process of the store has ended.
        n_ranks: Number of ranks.
        timeout: Longest wait for another rank.
    """
    if found is None:
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return RankError(f"torchrun ended, for example because it was killed. {REMEDY}")
        return RankError(f"Rank 0 ended, for example because it was killed. {REMEDY}", (0,), (0,))
    causes = {rank: report for rank, report in found.items() if _is_cause(report)}
    causes = causes or {rank: report for rank, report in found.items() if report.is_signal}
    if causes:
        rank, report = next(iter(causes.items()))
        return RankError(f"Rank {rank} failed: {report.text} {REMEDY}", tuple(causes))
    for report in found.values():
        if report.failed is not None:
            # Another rank knows the failed one, for example from a group that this rank isn't in.
            return RankError(report.text, tuple(report.failed), tuple(report.missing))
    missing = tuple(rank for rank in range(n_ranks) if rank not in found)
    if missing:
        named = ", ".join(map(str, missing))
        return RankError(
            f"Rank {named} ended or didn't respond, for example because it was killed or ran out of memory. {REMEDY}",
            missing,
            missing,
        )
    return RankError(f"The ranks lost their connection, or one of them took longer than {timeout}. {REMEDY}")
