"""`RunFolder`, the folder of a run: checks, lock, checkpoints and results."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from sparsedict import checks
from sparsedict.display import finite
from sparsedict.pages import TokenStrings
from sparsedict.storage import release_lock, replace_file, take_lock
from sparsedict.studies._decomposition import Decomposition
from sparsedict.studies._folder import (
    CHECKPOINTS,
    LOCK,
    MANIFEST,
    REPLACED,
    discard_scratch,
    has_result,
    listed,
    other_things,
    restore,
    set_aside,
)
from sparsedict.studies._joint_decomposition import JointDecomposition
from sparsedict.studies._run_changes import changes
from sparsedict.studies._sites_report import RUN, write_sites

_STEP = re.compile(r"step-\d{9,}")
_OF_CHECKPOINTS = re.compile(r"\.?step-\d{9,}(\.writing|\.removing|\.rows)?|lock")
MAX_SHOWN = 6

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class RunFolder:
    """A context for the folder of a run, which locks the folder and never loses a complete result.

    During training, ``checkpoints/`` contains the checkpoints and the options of the run, and records are appended to
    ``metrics.jsonl``. An earlier result that will be replaced is kept in ``replaced-result/`` until the new result is
    complete.

    Args:
        path: The folder. It is created if it doesn't exist.
        options: The options of the run as plain values by name. A run can only be resumed with the same options.
        resume: Whether to resume an interrupted run. A finished run is left unchanged.
        force: Whether to replace an earlier result, to restart an interrupted run, and to allow other files in the
            folder.

    Attributes:
        options: The options of the run.

    Raises:
        NotADirectoryError: On entry, if the path is a file.
        BlockingIOError: On entry, if another process uses the folder.
        OSError: On entry, if the folder isn't writable.
    """

    def __init__(
        self, path: str | os.PathLike[str], options: Mapping[str, Any], *, resume: bool = False, force: bool = False
    ) -> None:
        self.path: Path = checks.path("path", path, "a folder")
        checks.instance("options", options, Mapping, "a mapping of the options of the run")
        try:
            self.options: dict[str, Any] = json.loads(json.dumps(dict(options)))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"`options` must contain values that JSON can store, such as text or numbers: {error}."
            ) from error
        self._id = uuid.uuid4().hex[:12]
        self._resume = resume
        self._force = force
        self._lock: IO[bytes] | None = None
        self._created: list[Path] = []

    @property
    def id(self) -> str:
        """A unique identifier of the run. A resumed run keeps its identifier."""
        if self._resume and self.was_stopped:
            return str(_read(self.checkpoints / RUN).get("id", self._id))
        return self._id

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def metrics(self) -> Path:
        """The file of the training records."""
        return self.path / METRICS

    @property
    def tensorboard(self) -> Path:
        """The folder of the TensorBoard files."""
        return self.path / TENSORBOARD

    @property
    def has_result(self) -> bool:
        """Whether the folder has a complete result, of this run or of an earlier one."""
        return (self.path / MANIFEST).is_file()

    @property
    def was_stopped(self) -> bool:
        """Whether the folder contains an interrupted run that can be resumed."""
        folder = self.checkpoints
        return folder.is_dir() and any(_STEP.fullmatch(item.name) for item in folder.iterdir())

    @property
    def was_started(self) -> bool:
        """Whether the folder contains a started run without a complete result."""
        return (self.checkpoints / RUN).is_file() or self.was_stopped

    @property
    def earlier(self) -> Path:
        """The folder of an earlier result while a run that replaces it isn't complete."""
        return self.path / REPLACED

    def __enter__(self) -> RunFolder:
        folder = self.path
        for place in (folder, *folder.parents):
            if place.exists():
                if not place.is_dir():
                    raise NotADirectoryError(f"`path` must be a folder for the results, but {str(place)!r} is a file.")
                break
            if place.is_symlink():
                raise NotADirectoryError(
                    f"`path` must be a folder for the results, but {str(place)!r} is a link to "
                    f"{str(place.readlink())!r}, which doesn't exist."
                )
            self._created.append(place)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(folder / LOCK)
        except OSError as error:
            self._tidy()
            raise OSError(error.errno, f"`path` must be a writable folder: {error}.") from error
        if self._lock is None:
            raise BlockingIOError(
                f"`path` must be a folder that no other process uses, but another process uses {folder}. Wait for it "
                "to end, or choose another folder."
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.was_stopped and not has_result(self.path):
            # The run had no effect, so the earlier state is restored.
            if self.was_started:
                self._discard_run()
            restore(self.path)
        if self._lock is not None:
            release_lock(self._lock)
        self._tidy()

    def is_finished(self) -> bool:
        """Checks the contents of the folder without changes. Returns whether this run is already finished.

        Raises:
            FileExistsError: If the folder contains a result, an interrupted run or other files, and neither ``resume``
                nor ``force`` allows this.
            ValueError: If the run has other options than the run to resume.
        """
        result = _read(self.path / RUN) if has_result(self.path) else None
        if result is not None and self._resume:
            if not (changes := self._changes(result)):
                return True
            if not self._force and not self.was_stopped:
                raise self._other(f"the finished run in {self.path}", changes)
        if (self.was_stopped or self.earlier.exists()) and not (self._force and not self._resume):
            if not self._resume:
                raise FileExistsError(
                    f"`path` must be a new or empty folder, but {self.path} contains an interrupted run. Pass "
                    f"resume=True to resume it, or force=True to start a new run.{self._earlier()}"
                )
            marker = _read(self.checkpoints / RUN)
            if marker and (changes := self._changes(marker)):
                raise self._other(f"the interrupted run in {self.path}", changes)
            return False
        self._check_contents()
        return False

    def begin(self) -> None:
        """Prepares the folder for training: removes leftovers and moves an earlier result to a subfolder."""
        discard_scratch(self.path)
        goes_on = self._resume and self.was_stopped
        if not goes_on:
            if self.was_started:
                self._discard_run()
            self.checkpoints.mkdir(exist_ok=True)
            content = json.dumps(finite(self._run()), indent=1, allow_nan=False)
            replace_file(self.checkpoints / RUN, lambda file: _write_text(file, f"{content}\n"))
        set_aside(self.path)

    def finish(
        self,
        found: Mapping[str, Decomposition] | JointDecomposition,
        strings: TokenStrings | None,
        *,
        progress: bool = False,
    ) -> dict[str, Path]:
        """Writes the result, then removes the checkpoints and an earlier result. Returns the paths by their kind.

        Args:
            found: Results by site, or of dictionaries that have all sites.
            strings: Function from token ids to text, for the examples.
            progress: Whether to show the size of the pages of latents before they are written, and a progress bar.
        """
        also = [name for name in (METRICS, TENSORBOARD) if (self.path / name).exists()]
        try:
            files = write_sites(
                found, self.path, strings=strings, force=True, run=self._run(), also=also, progress=progress
            )
        except OSError as error:
            raise OSError(
                error.errno,
                f"The results could not be written to {self.path} ({error}). The trained dictionaries are in its "
                "checkpoints. Correct the cause, then pass resume=True to measure them again and write the results.",
            ) from error
        self.discard_leftovers()
        return {**files, "metrics": self.metrics}

    def discard_leftovers(self) -> None:
        """Removes the checkpoints of a run with a complete result."""
        if has_result(self.path) and self.was_started:
            self._discard_checkpoints()

    def _discard_run(self) -> None:
        self._discard_checkpoints()
        self.metrics.unlink(missing_ok=True)
        shutil.rmtree(self.tensorboard, ignore_errors=True)

    def _discard_checkpoints(self) -> None:
        for item in self.checkpoints.iterdir():
            if item.name == RUN or _OF_CHECKPOINTS.fullmatch(item.name):
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        # Other files in the folder are kept.
        with suppress(OSError):
            self.checkpoints.rmdir()

    def _earlier(self) -> str:
        return f" The earlier result is in {self.earlier}." if self.earlier.exists() else ""

    def _check_contents(self) -> None:
        if self._force:
            return
        if has_result(self.path):
            raise FileExistsError(
                f"`path` must be a new or empty folder, but {self.path} contains a finished result. Choose another "
                "folder, or pass force=True to replace that result."
            )
        ours = (CHECKPOINTS, METRICS, TENSORBOARD) if self.was_started else ()
        names = other_things(self.path, (LOCK, REPLACED, *ours))
        if names:
            raise FileExistsError(
                f"`path` must be a new or empty folder, but {self.path} contains other files ({listed(names)}). Choose "
                "another folder, or pass force=True to replace files of the same names."
            )

    def _run(self) -> dict[str, Any]:
        return {"made_by": "sparsedict", "id": self.id, "working_directory": os.getcwd(), "options": self.options}

    def _changes(self, run: Mapping[str, Any]) -> list[str]:
        return changes(run, self.options, self.path)

    def _other(self, which: str, changes: list[str]) -> ValueError:
        return ValueError(
            f"`path` must be the folder of this run to resume it, but {which} had other options: "
            f"{'; '.join(changes[:MAX_SHOWN])}. Pass the same options, choose another folder, or pass force=True "
            "without resume=True to start a new run."
        )

    def _tidy(self) -> None:
        """Removes the folders that were created for this run if they are still empty."""
        for folder in self._created:
            with suppress(OSError):
                folder.rmdir()


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
