"""`RankError`, the failure of another rank of a run."""

from __future__ import annotations


class RankError(RuntimeError):
    """Raised on every rank of a run, except the failed one, if a rank failed.

    Attributes:
        ranks: Numbers of the failed ranks; empty if they are unknown.

    Args:
        message: The error, which names the ranks.
        ranks: See the attribute.
    """

    def __init__(self, message: str, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.ranks = ranks
