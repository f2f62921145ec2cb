"""`RunOptions`, the checked options of a run that don't belong to a trainee."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

import torch

from sparsedict import checks
from sparsedict.parallel import Parallel
from sparsedict.training._validation import check_callbacks, check_checkpoint
from sparsedict.training.callbacks import Callback

OF_RANK_0 = ("progress", "callbacks")
"""Options that only rank 0 uses."""


@dataclass(frozen=True)
class RunOptions:
    """The options of a run. See `fit` for those with the same names.

    Args:
        names: Names of the trainees.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range, or options are incompatible.
    """

    n_tokens: int
    log_every: int
    dead_after: int
    autocast: torch.dtype | None
    checkpoint: str | os.PathLike[str] | None
    checkpoint_every: int | timedelta | None
    checkpoint_keep: int | None
    resume: bool
    deterministic: bool
    progress: bool
    callbacks: Sequence[Callback]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("n_tokens", "log_every", "dead_after"):
            checks.set_at_least(self, name, 1)
        # Arrays have no truth value.
        if self.autocast is not None and self.autocast is not torch.bfloat16:
            raise ValueError(f"`autocast` must be torch.bfloat16 or None, got {self.autocast!s:.80}.")
        for name in ("progress", "resume", "deterministic"):
            object.__setattr__(self, name, checks.boolean(name, getattr(self, name)))
        check_checkpoint(self.checkpoint, self.checkpoint_every, self.checkpoint_keep, self.resume)
        object.__setattr__(self, "callbacks", check_callbacks(self.callbacks))

    def settings(self) -> dict[str, Any]:
        """Returns the options that determine the result."""
        names = ("n_tokens", "log_every", "dead_after", "autocast", "deterministic")
        return {name: getattr(self, name) for name in names}


def check_same_options(options: RunOptions, parallel: Parallel) -> None:
    """Checks that all ranks have the same options, before a difference could make them wait for each other.

    Raises:
        ValueError: On a rank whose options differ from those of rank 0.
        RankError: On the others.
    """
    if parallel.n_ranks == 1:
        return
    own = {field.name: getattr(options, field.name) for field in fields(options) if field.name not in OF_RANK_0}
    # The file systems of ranks may differ.
    own["checkpoint"] = None if options.checkpoint is None else "a folder"
    expected = parallel.share(own)

    def compare() -> None:
        for name, value in own.items():
            if value != expected[name]:
                argument = "trainees" if name == "names" else name
                raise ValueError(
                    f"`{argument}` must be the same on all ranks, but it is {value!r} on rank {parallel.rank} and "
                    f"{expected[name]!r} on rank 0. Make the same call on all ranks."
                )

    parallel.together(compare)
