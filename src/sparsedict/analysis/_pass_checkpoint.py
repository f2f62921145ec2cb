"""The checkpoint of a pass that collects records: when its state is written, and which state is restored."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sparsedict.storage import discard_folder, read_checkpoint, write_checkpoint

_STATE = "collect-"

DEFAULT_EVERY = timedelta(minutes=10)


@dataclass
class PassCheckpoint:
    """The folder of the state of a pass.

    Attributes:
        folder: The folder. It is created with the first state.
        every: Tokens or time between two states.
        settings: The arguments of the pass, which must be the same when it continues.
        n_written: Number of tokens of the newest state.
    """

    folder: Path
    every: int | timedelta
    settings: Mapping[str, Any]
    n_written: int = 0
    _last_time: float = field(default_factory=time.monotonic)

    def load(self, resume: bool) -> Mapping[str, Any] | None:
        """Returns the newest state, if there is one.

        Raises:
            FileExistsError: If there is one and ``resume`` is False.
            ValueError: If the state is that of a pass with other arguments.
        """
        found = self._found()
        if not found:
            return None
        if not resume:
            raise FileExistsError(
                f"`checkpoint` must be a folder without checkpoints if `resume` is False, but {self.folder} holds one. "
                "Pass resume=True to continue, or choose another folder."
            )
        settings, state = read_checkpoint(found[-1])
        for name, value in self.settings.items():
            before = settings.get(name)
            if before != (list(value) if isinstance(value, tuple) else value):
                raise ValueError(
                    f"`checkpoint` must be of a pass with the same arguments, but {found[-1]} has `{name}` {before!r}, "
                    f"got {value!r}. Restore the argument, choose another folder, or delete {self.folder}."
                )
        self.n_written = int(found[-1].name.removeprefix(_STATE))
        return state

    def is_due(self, n_tokens: int) -> bool:
        """Returns whether the state must be written after ``n_tokens`` tokens."""
        if isinstance(self.every, timedelta):
            return time.monotonic() - self._last_time >= self.every.total_seconds()
        return n_tokens - self.n_written >= self.every

    def write(self, n_tokens: int, state: Mapping[str, Any]) -> None:
        """Writes the state after ``n_tokens`` tokens, and removes the previous state."""
        if n_tokens == self.n_written:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        before = self._found()
        write_checkpoint(self.folder / f"{_STATE}{n_tokens:012d}", self.settings, state)
        for old in before:
            discard_folder(old)
        self.n_written, self._last_time = n_tokens, time.monotonic()

    def clear(self) -> None:
        """Removes the states of a finished pass."""
        for old in self._found():
            discard_folder(old)

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob(f"{_STATE}*")) if self.folder.is_dir() else []
