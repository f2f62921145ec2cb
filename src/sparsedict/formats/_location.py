"""`Location`, the location of a checkpoint: a folder or a file, on disk or in a repository on the hub."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sparsedict import checks, hub
from sparsedict.storage import StorageError, read_json, regular_file

MAX_LISTED = 12
MAX_ENTRIES = 10_000
"""Number of entries of a folder that are examined. Folders of checkpoints have fewer."""


@dataclass(frozen=True)
class Location(os.PathLike[str]):
    """The location of a checkpoint: a folder, and optionally one file in it.

    Attributes:
        folder: The folder of the files.
        file_name: The name of the file if the path names a file, or ``None`` if it names the folder.
        snapshot: The repository on the hub that files are downloaded from, or ``None`` for a local folder.
    """

    folder: Path
    file_name: str | None
    snapshot: hub.Snapshot | None = None

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> Location:
        """Returns the location of a path or of an address on the hub.

        Raises:
            FileNotFoundError: If the path doesn't exist.
            ConnectionError: If the hub can't be reached.
        """
        if isinstance(path, Location):
            return path
        if hub.is_address(path):
            snapshot = hub.Snapshot.from_address(str(path))
            found = snapshot.root / snapshot.address.path
            return cls(found.parent, found.name, snapshot) if snapshot.is_file else cls(found, None, snapshot)
        found = checks.path("path", path, "a folder or file of a checkpoint, or an address on the hub")
        if found.is_dir():
            return cls(found, None)
        if not os.path.lexists(found):
            raise FileNotFoundError(f"`path` must be the folder or a file of a checkpoint, but {found} doesn't exist.")
        return cls(found.parent, found.name)

    def __fspath__(self) -> str:
        return str(self.folder if self.file_name is None else self.folder / self.file_name)

    def __str__(self) -> str:
        if self.snapshot is None:
            return os.fspath(self)
        offline = " (only files in the local cache, because the hub can't be reached)" * self.snapshot.is_offline
        return f"{self.path_of(self.file_name)}{offline}"

    def path_of(self, name: str | None) -> str:
        """Returns the path or address of a file or folder in this folder, as an argument of `sd.load`."""
        if self.snapshot is None:
            return str(self.folder / (name or ""))
        return str(self.snapshot.address_of(f"{self._start}{name or ''}".rstrip("/")))

    @property
    def _start(self) -> str:
        """The path of the folder in its repository, with a trailing slash; empty for the whole repository."""
        assert self.snapshot is not None
        path = self.folder.relative_to(self.snapshot.root)
        return f"{path.as_posix()}/" if path.parts else ""

    @property
    def parent(self) -> Location | None:
        """The parent folder, or ``None`` for a whole repository."""
        is_whole = self.snapshot is not None and self.folder == self.snapshot.root
        return None if is_whole else Location(self.folder.parent, None, self.snapshot)

    @property
    def suffix(self) -> str:
        """The suffix of the file name; empty for a folder."""
        return Path(self.file_name or "").suffix

    def holds(self, *names: str) -> bool:
        """Returns whether the folder contains any of these names. The contents of the files aren't checked."""
        if self.snapshot is not None:
            return any(f"{self._start}{name}" in self.snapshot.names for name in names)
        return any(os.path.lexists(self.folder / name) for name in names)

    def find(self, *names: str) -> Path | None:
        """Returns the first of these files that exists, or ``None``. A file on the hub is downloaded first.

        Raises:
            StorageError: If the file is a link that leaves the folder, or no regular file.
        """
        if self.snapshot is not None:
            found = next((name for name in names if self.holds(name)), None)
            if found is not None:
                self.snapshot.download(f"{self._start}{found}")
        return next((file for name in names if (file := regular_file(self.folder, name)) is not None), None)

    def weights(self, *names: str, suffix: str) -> Path:
        """Returns the weights file: the file of this location if it has the suffix, or the first existing name.

        Raises:
            FileNotFoundError: If none of the files exists.
            StorageError: If the file is a link that leaves the folder, or no regular file.
        """
        file = self.find(*([self.file_name] if self.file_name and self.file_name.endswith(suffix) else names))
        if file is None:
            raise FileNotFoundError(f"{self.path_of(None)} must contain the weights file {' or '.join(names)}.")
        return file

    def json(self, *names: str) -> dict[str, Any] | None:
        """Reads the first of these JSON files that exists, or returns ``None``.

        Raises:
            StorageError: If the file isn't a JSON object.
        """
        file = self.find(*names)
        if file is None:
            return None
        document = read_json(file)
        if not isinstance(document, dict):
            raise StorageError(f"{file} must contain a JSON object, got {type(document).__name__}.")
        return document

    def cfg(self, name: str, library: str) -> dict[str, Any]:
        """Reads the JSON configuration that every checkpoint of a library has.

        Raises:
            FileNotFoundError: If the file is missing.
            StorageError: If the file isn't a JSON object.
        """
        document = self.json(name)
        if document is None:
            raise FileNotFoundError(
                f"{self.path_of(None)} lacks {name}, without which {library} weights can't be read."
            )
        return document

    def entries(self) -> list[str]:
        """Returns the names of the files and folders in the folder."""
        if self.snapshot is not None:
            below = (name.removeprefix(self._start) for name in self.snapshot.names if name.startswith(self._start))
            return sorted({name.partition("/")[0] for name in below})[:MAX_ENTRIES]
        with os.scandir(self.folder) as found:
            return sorted(entry.name for entry, _ in zip(found, range(MAX_ENTRIES), strict=False))

    def subfolders(self, *names: str, depth: int = 2) -> list[str]:
        """Returns the subfolders that contain any of these files, as relative paths; empty for a file."""
        if self.file_name is not None:
            return []
        if self.snapshot is None:
            return sorted(_below(self.folder, names, depth))
        files = (PurePosixPath(f.removeprefix(self._start)) for f in self.snapshot.names if f.startswith(self._start))
        return sorted({str(file.parent) for file in files if file.name in names and 1 < len(file.parts) <= depth + 1})

    def check_is_single(self, *names: str, what: str, depth: int = 2) -> None:
        """Checks that the location isn't a folder of several checkpoints.

        Raises:
            FileNotFoundError: If the checkpoints are in subfolders. The message lists them.
        """
        if self.file_name is not None or self.holds(*names):
            return
        found = self.subfolders(*names, depth=depth)
        if found:
            first = self.path_of(found[0])
            several = f"{len(found)} {what}: {listed(found)}. Pass the folder of one of them, such as {first}."
            one = f"a checkpoint in a subfolder. Pass {first}."
            raise FileNotFoundError(f"{self} contains {several if len(found) > 1 else one}")


def _below(root: Path, names: tuple[str, ...], depth: int) -> Iterator[str]:
    """Yields the folders that contain any of the files, level by level, among at most ``MAX_ENTRIES`` entries."""
    level, left = [root], MAX_ENTRIES
    for _ in range(depth):
        inner = [folder / name for folder in level for name in Location(folder, None).entries()][:left]
        left -= len(inner)
        level = [entry for entry in inner if entry.is_dir() and not entry.is_symlink()]
        yield from (str(inner.relative_to(root)) for inner in level if Location(inner, None).holds(*names))


def listed(names: Iterable[str]) -> str:
    """Returns the first names as text for an error message, and the number of the others."""
    shown = [repr(name[:80]) for name in names]
    more = f" and {len(shown) - MAX_LISTED} more" if len(shown) > MAX_LISTED else ""
    return ", ".join(shown[:MAX_LISTED]) + more
