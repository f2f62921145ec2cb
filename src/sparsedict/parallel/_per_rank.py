"""State that differs between ranks, in a checkpoint that one rank writes."""

from __future__ import annotations

from typing import Any

from sparsedict.parallel._parallel import Parallel

KEY = "per_rank"


def per_rank(parallel: Parallel, value: Any) -> Any:
    """Returns the values of all ranks for a checkpoint; the value itself in a run in a single process."""
    return value if parallel.n_ranks == 1 else {KEY: parallel.gather(value)}


def saved_values(saved: Any) -> list[Any]:
    """Returns the value of each rank that :func:`per_rank` saved, by rank."""
    return saved[KEY] if isinstance(saved, dict) and KEY in saved else [saved]


def of_rank(parallel: Parallel, saved: Any) -> Any | None:
    """Returns this rank's value from a checkpoint; ``None`` if fewer ranks wrote it.

    Args:
        parallel: The ranks of this run.
        saved: The result of :func:`per_rank`, from any number of ranks.
    """
    values = saved_values(saved)
    return values[parallel.rank] if parallel.rank < len(values) else None
