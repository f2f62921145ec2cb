"""The checkpoint folder of a run: when checkpoints are written, how many are kept, and which one is loaded."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any

from sparsedict import checks
from sparsedict.parallel import Alone, Parallel
from sparsedict.storage import (
    ROWS,
    NewerVersionError,
    StorageError,
    discard_folder,
    read_checkpoint,
    release_lock,
    take_lock,
    write_checkpoint,
)
from sparsedict.training._latent_rows import with_stored, with_whole, without_rows
from sparsedict.training._settings import differences, renamed_paths, renamed_settings

Every = int | timedelta
"""Steps or time between two checkpoints."""

ALONE = Alone()
LOCK = "lock"
"""Name of the file that is locked while a process trains in the folder."""

MAX_SHOWN = 6
_NAME = re.compile(r"step-(\d{9,})")
_LEFT_BEHIND = re.compile(r"\.step-\d{9,}\.(writing|removing|rows)")


class Checkpoints:
    """A folder that holds the newest checkpoints of one run.

    Each checkpoint is a subfolder such as ``step-000001000``. The subfolder appears under this name only when all its
    files have been written to the disk.

    Args:
        folder: The folder. It is created if it doesn't exist.
        every: Steps or time between two checkpoints.
        keep: Number of checkpoints to keep.
        resume: Whether to resume from the newest checkpoint, if there is one.
        parallel: The ranks of the run. Only rank 0 reads and writes the folder, except for the rows of divided latents.
            Errors are raised on all ranks.

    Raises:
        NotADirectoryError: If the folder is a file.
        FileExistsError: If the folder contains checkpoints already and ``resume`` isn't set.
        BlockingIOError: If another process trains in the folder.
        OSError: If the folder isn't writable.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: Every,
        keep: int,
        resume: bool,
        parallel: Parallel = ALONE,
    ) -> None:
        # Ranks may have different working folders, but write rows to one folder.
        self.folder = Path(folder) if parallel.n_slices == 1 else Path(parallel.share(str(Path(folder).resolve())))
        self._every = checks.interval("checkpoint_every", every, "steps")
        self._keep = checks.at_least("checkpoint_keep", keep, 1)
        self._settings: Mapping[str, Any] = {}
        self._last_time = time.monotonic()
        self.last_step: int | None = None
        self._parallel = parallel
        self._lock = parallel.on_main(partial(self._open, resume))

    def _open(self, resume: bool) -> IO[bytes]:
        lock = self._open_folder()
        steps = self.steps()
        if steps and not resume:
            release_lock(lock)
            raise FileExistsError(
                f"`checkpoint` must be a folder without checkpoints if `resume` is False, but {self.folder} contains "
                f"one of step {steps[-1]:,}. Pass resume=True to resume that run, or choose another folder."
            )
        return lock

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints in the folder, in ascending order."""
        names = (_NAME.fullmatch(item.name) for item in self.folder.iterdir())
        return sorted(int(found[1]) for found in names if found)

    def load(self, settings: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the state of the newest checkpoint, or ``None`` if there is no checkpoint.

        Args:
            settings: The settings of this run, which must equal those of the checkpoint.
            environment: Versions and hardware that may change the last bits of results. A change gives a warning.

        Raises:
            ValueError: If the checkpoint belongs to a run with other settings. The message lists the differences.
            StorageError: If there are checkpoints but none of them can be read.
        """
        self._settings = {"run": settings, "environment": environment}
        # The file system of the folder may be that of rank 0 alone.
        found = self._parallel.share(self._parallel.on_main(self._read_newest))
        if found is None:
            return None
        self.last_step, before, state = found
        changes = list(differences(renamed_settings(before.get("run", {})), settings))
        if changes:
            shown = "; ".join(changes[:MAX_SHOWN])
            more = f"; and {len(changes) - MAX_SHOWN} more" if len(changes) > MAX_SHOWN else ""
            raise ValueError(
                f"`checkpoint` must be the folder of this run, but the run in {self.folder} has other settings: "
                f"{shown}{more}. Restore these settings to resume that run, or choose another folder."
            )
        changes = list(differences(before.get("environment"), environment))
        if changes and self._parallel.is_main:
            checks.warn(
                f"The run in {self.folder} resumes in a different environment: {'; '.join(changes)}. "
                "The last bits of the result may differ from those of an uninterrupted run."
            )
        return {**state, "parts": renamed_paths(state["parts"], state["learners"])}

    def is_due(self, step: int) -> bool:
        """Returns whether a checkpoint must be written after ``step`` steps."""
        if isinstance(self._every, timedelta):
            return time.monotonic() - self._last_time >= self._every.total_seconds()
        return step % self._every == 0

    def write(self, step: int, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint, then removes the oldest ones beyond the number to keep.

        Raises:
            OSError: If the checkpoint can't be written. Earlier checkpoints are left unchanged.
        """
        common, rows = without_rows(state)
        beside = self.folder / f".{self._path(step).name}.rows"
        self._parallel.on_main(partial(self._prepare, step))
        try:
            self._parallel.write_rows(beside, rows)
        except OSError as error:
            raise self._write_error(error, step) from error
        self._parallel.on_main(partial(self._write, step, common, beside if rows else None))
        self.last_step = step
        self._last_time = time.monotonic()

    def _prepare(self, step: int) -> None:
        try:
            self._remove_unusable(step)
        except OSError as error:
            raise self._write_error(error, step) from error

    def _write(self, step: int, state: Mapping[str, Any], rows: Path | None) -> None:
        try:
            write_checkpoint(self._path(step), self._settings, state, rows)
            for old in self.steps()[: -self._keep]:
                discard_folder(self._path(old))
        except OSError as error:
            raise self._write_error(error, step) from error

    def _remove_unusable(self, step: int) -> None:
        """Removes incomplete checkpoints of killed processes, and checkpoints of later steps, which are unreadable."""
        for item in self.folder.iterdir():
            if _LEFT_BEHIND.fullmatch(item.name):
                shutil.rmtree(item, ignore_errors=True)
        for later in self.steps():
            if later >= step:
                discard_folder(self._path(later))

    def _write_error(self, error: OSError, step: int) -> OSError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "The disk is full: the" if full else "The"
        stays = (
            "There is no earlier checkpoint"
            if self.last_step is None
            else f"The checkpoint of step {self.last_step:,} is intact"
        )
        remedy = "Free some space" if full else "Correct the cause"
        message = (
            f"{what} checkpoint of step {step:,} could not be written to {self.folder} ({error}). {stays}. {remedy}, "
            "then resume the run with resume=True."
        )
        return type(error)(message) if error.errno is None else OSError(error.errno, message)

    def _read_newest(self) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        broken: Exception | None = None
        for step in reversed(self.steps()):
            try:
                settings, state = self._read(self._path(step))
            except NewerVersionError:
                raise
            except (StorageError, FileNotFoundError) as error:
                broken = broken or error
                checks.warn(f"Skipped a broken checkpoint: {error}")
            else:
                return step, settings, state
        if broken is not None:
            raise StorageError(
                f"None of the checkpoints in {self.folder} can be read: {broken} Choose another folder."
            ) from broken
        return None

    def _read(self, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the settings and the state. Each rank reads its rows later if the latents are divided."""
        settings, state = read_checkpoint(folder)
        if self._parallel.n_slices == 1:
            return settings, with_whole(state, folder / ROWS)
        if (folder / ROWS).exists():
            from sparsedict.storage.rows import verify_rows

            verify_rows(folder / ROWS)
        return settings, with_stored(state, folder.resolve() / ROWS)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}"

    def _open_folder(self) -> IO[bytes]:
        """Creates the folder and locks it for this process."""
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
            message = f"`checkpoint` must be a writable folder, but {folder} can't be written to: {error}."
            raise OSError(error.errno, message) from error
        if lock is None:
            raise BlockingIOError(
                f"`checkpoint` must be a folder that no other process uses, but another process trains in {folder}. "
                "Wait for it to end, or choose another folder."
            )
        return lock

    def close(self) -> None:
        """Unlocks the folder for other processes."""
        if self._lock is not None:
            release_lock(self._lock)
