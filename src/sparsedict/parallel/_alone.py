"""`Alone`, a run in a single process."""

from __future__ import annotations

from dataclasses import dataclass

from sparsedict.parallel._parallel import Parallel


@dataclass(frozen=True)
class Alone(Parallel):
    """A run in a single process, the default of ``fit``. It copies and synchronises nothing."""

    rank = 0
    n_ranks = 1
    part = 0
    n_parts = 1
