"""`RankError`, the failure of another rank of a run."""

from __future__ import annotations


class RankError(RuntimeError):
    """Raised on every rank of a run, except the failed one, if a rank failed.

    Attributes:
        ranks: Numbers of the failed ranks; empty if they are unknown.
        missing: Those of them that ended without an error, for example because they were killed.

    Args:
        message: The error, which names the ranks.
        ranks: See the attribute.
        missing: See the attribute.
    """

    def __init__(self, message: str, ranks: tuple[int, ...] = (), missing: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.ranks = ranks
        self.missing = missing
