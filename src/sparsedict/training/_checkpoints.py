"""The checkpoints of one run: when they are due, where they lie, and which is gone on from."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import warnings
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from sparsedict import checks
from sparsedict.storage import (
    NewerVersionError,
    StorageError,
    discard_folder,
    read_checkpoint,
    release_lock,
    take_lock,
    write_checkpoint,
)
from sparsedict.training._settings import differences, renamed_paths, renamed_settings

Every = int | timedelta
"""Steps, or time, from one checkpoint to the next."""

LOCK = "lock"
"""A file that the process that trains in the folder has locked."""

MAX_SHOWN = 6
_NAME = re.compile(r"step-(\d{9,})")
_LEFT_BEHIND = re.compile(r"\.step-\d{9,}\.(writing|removing)")


class Checkpoints:
    """A folder with the checkpoints of one run, the newest few of them.

    Each is a folder of its own, ``step-000001000``, that appears when all of it lies on the disk.

    Args:
        folder: Where they lie; made where it doesn't exist.
        every: Steps or time between them.
        keep: How many are kept.
        resume: Whether to go on from the newest where there is one.

    Raises:
        NotADirectoryError: If the folder is a file.
        FileExistsError: If checkpoints lie there already and ``resume`` isn't set.
        BlockingIOError: If another process trains with it.
        OSError: If nothing can be written there.
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: Every, keep: int, resume: bool) -> None:
        if not isinstance(every, timedelta):
            every = checks.at_least("checkpoint_every", every, 1)
        elif every <= timedelta(0):
            raise ValueError(f"`checkpoint_every` must be steps, or a time longer than none, got {every!r}.")
        self.folder = Path(folder)
        self._every = every
        self._keep = checks.at_least("checkpoint_keep", keep, 1)
        self._settings: Mapping[str, Any] = {}
        self._last_time = time.monotonic()
        self.last_step: int | None = None
        self._lock = self._opened()
        steps = self.steps()
        if steps and not resume:
            self.close()
            raise FileExistsError(
                f"`checkpoint` must be a folder without checkpoints where `resume` is False, but {self.folder} holds "
                f"one of step {steps[-1]:,}. Pass resume=True to go on from it, or choose another folder."
            )

    def steps(self) -> list[int]:
        """Returns the steps after which checkpoints were written, in order."""
        names = (_NAME.fullmatch(item.name) for item in self.folder.iterdir())
        return sorted(int(found[1]) for found in names if found)

    def begin(self, settings: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the state to go on from, or ``None`` where there is none yet.

        Args:
            settings: What the run is: it must be what it was.
            environment: What may change the last bits of results: where it has changed, a warning says so.

        Raises:
            ValueError: If the checkpoints are another run's; the differences are named.
            StorageError: If there are checkpoints but none can be read.
        """
        self._settings = {"run": settings, "environment": environment}
        found = self._newest()
        if found is None:
            return None
        self.last_step, before, state = found
        changes = list(differences(renamed_settings(before.get("run", {})), settings))
        if changes:
            shown = "; ".join(changes[:MAX_SHOWN])
            more = f"; and {len(changes) - MAX_SHOWN} more" if len(changes) > MAX_SHOWN else ""
            raise ValueError(
                f"`checkpoint` must be the folder of this run, but the run in {self.folder} was another: "
                f"{shown}{more}. Make these as they were to go on with that run, or choose another folder."
            )
        changes = list(differences(before.get("environment"), environment))
        if changes:
            warnings.warn(
                f"The run in {self.folder} goes on elsewhere than it was stopped: {'; '.join(changes)}. "
                "What follows may differ in the last bits from what it would have been.",
                stacklevel=2,
            )
        return {**state, "parts": renamed_paths(state["parts"], state["learners"])}

    def is_due(self, step: int) -> bool:
        """Whether to write one after so many steps."""
        if isinstance(self._every, timedelta):
            return time.monotonic() - self._last_time >= self._every.total_seconds()
        return step % self._every == 0

    def write(self, step: int, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint, and removes the oldest where there are more than are kept.

        Raises:
            OSError: If it can't be written. Those that were there stay.
        """
        target = self._path(step)
        try:
            self._clear(step)
            write_checkpoint(target, self._settings, state)
            for old in self.steps()[: -self._keep]:
                discard_folder(self._path(old))
        except OSError as error:
            raise self._failed(error, step) from error
        self.last_step = step
        self._last_time = time.monotonic()

    def _clear(self, step: int) -> None:
        """Removes what is of no use: leftovers of killed writers, and later checkpoints, which couldn't be read."""
        for item in self.folder.iterdir():
            if _LEFT_BEHIND.fullmatch(item.name):
                shutil.rmtree(item, ignore_errors=True)
        for later in self.steps():
            if later >= step:
                discard_folder(self._path(later))

    def _failed(self, error: OSError, step: int) -> OSError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "The disk is full: the" if full else "The"
        stays = "There is no earlier one" if self.last_step is None else f"The one of step {self.last_step:,} stays"
        remedy = "Make room, then" if full else "Mend that, then"
        message = (
            f"{what} checkpoint of step {step:,} could not be written to {self.folder} ({error}). {stays}. {remedy} go "
            "on with resume=True."
        )
        return type(error)(message) if error.errno is None else OSError(error.errno, message)

    def _newest(self) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        broken: Exception | None = None
        for step in reversed(self.steps()):
            try:
                settings, state = read_checkpoint(self._path(step))
            except NewerVersionError:
                raise
            except (StorageError, FileNotFoundError) as error:
                broken = broken or error
                warnings.warn(f"A checkpoint is passed over, for it is broken: {error}", stacklevel=3)
            else:
                return step, settings, state
        if broken is not None:
            raise StorageError(f"{self.folder} holds checkpoints, but none that can be read: {broken}") from broken
        return None

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}"

    def _opened(self) -> IO[bytes]:
        """Makes the folder and takes it for this process."""
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"`checkpoint` must be a folder, but {folder} is a file.")
        if _NAME.fullmatch(folder.name) and (folder / "checkpoint.json").exists():
            raise ValueError(
                f"`checkpoint` must be the folder of a run, but {folder} is a single checkpoint: pass {folder.parent}."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = take_lock(folder / LOCK)
        except OSError as error:
            message = f"`checkpoint` must be a folder that can be written to, but {folder} can't: {error}."
            raise OSError(error.errno, message) from error
        if lock is None:
            raise BlockingIOError(f"`checkpoint` must be a folder of one run, but another process trains in {folder}.")
        return lock

    def close(self) -> None:
        """Lets other processes have the folder."""
        release_lock(self._lock)
