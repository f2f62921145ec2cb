"""Where a checkpoint lies: a folder, or one of its files."""

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
"""Entries of a folder that are looked at: a folder of more isn't one of checkpoints."""


@dataclass(frozen=True)
class Place(os.PathLike[str]):
    """A folder of checkpoint files, and the file in it that was named, if one was.

    Attributes:
        folder: Where the files lie.
        named: The file that the path named; ``None`` where it named the folder.
        snapshot: The repository on the hub from which files come when they are asked for; ``None`` where they are here.
    """

    folder: Path
    named: str | None
    snapshot: hub.Snapshot | None = None

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Place:
        """Finds what a path or an address on the hub names.

        Raises:
            FileNotFoundError: If there is nothing of that name.
            ConnectionError: If the hub can't be reached.
        """
        if isinstance(path, Place):
            return path
        if hub.is_address(path):
            snapshot = hub.Snapshot.from_address(str(path))
            place = snapshot.root / snapshot.address.path
            return cls(place.parent, place.name, snapshot) if snapshot.is_file else cls(place, None, snapshot)
        found = checks.path("path", path, "a folder or file of a checkpoint, or an address on the hub")
        if found.is_dir():
            return cls(found, None)
        if not os.path.lexists(found):
            raise FileNotFoundError(f"`path` must be a checkpoint's folder or file, but {found} doesn't exist.")
        return cls(found.parent, found.name)

    def __fspath__(self) -> str:
        return str(self.folder if self.named is None else self.folder / self.named)

    def __str__(self) -> str:
        if self.snapshot is None:
            return os.fspath(self)
        offline = " (what the local cache holds of it, for the hub can't be reached)" * self.snapshot.is_offline
        return f"{self.inside(self.named)}{offline}"

    def inside(self, name: str | None) -> str:
        """Returns what `sd.load` takes for a file or folder in this folder."""
        if self.snapshot is None:
            return str(self.folder / (name or ""))
        return str(self.snapshot.address_of(f"{self._start}{name or ''}".rstrip("/")))

    @property
    def _start(self) -> str:
        """The folder's path in its repository, with a slash where it isn't the repository itself."""
        assert self.snapshot is not None
        path = self.folder.relative_to(self.snapshot.root)
        return f"{path.as_posix()}/" if path.parts else ""

    @property
    def above(self) -> Place | None:
        """The folder that this one lies in; ``None`` of a whole repository."""
        is_whole = self.snapshot is not None and self.folder == self.snapshot.root
        return None if is_whole else Place(self.folder.parent, None, self.snapshot)

    @property
    def suffix(self) -> str:
        return Path(self.named or "").suffix

    def holds(self, *names: str) -> bool:
        """Whether any of these files is in the folder, whatever it holds."""
        if self.snapshot is not None:
            return any(f"{self._start}{name}" in self.snapshot.names for name in names)
        return any(os.path.lexists(self.folder / name) for name in names)

    def find(self, *names: str) -> Path | None:
        """Returns the first of these files that is in the folder, downloaded where it lies on the hub.

        Raises:
            StorageError: If it is a link out of the folder, or no regular file.
        """
        if self.snapshot is not None:
            found = next((name for name in names if self.holds(name)), None)
            if found is not None:
                self.snapshot.download(f"{self._start}{found}")
        return next((file for name in names if (file := regular_file(self.folder, name)) is not None), None)

    def weights(self, *names: str, suffix: str) -> Path:
        """Returns the file of weights: the one that was named, if it ends so, else the first of these that is there.

        Raises:
            FileNotFoundError: If none is there.
            StorageError: If it is a link out of the folder, or no regular file.
        """
        file = self.find(*([self.named] if self.named and self.named.endswith(suffix) else names))
        if file is None:
            raise FileNotFoundError(f"{self.inside(None)} lacks the file of weights, {' or '.join(names)}.")
        return file

    def json(self, *names: str) -> dict[str, Any] | None:
        """Reads the first of these JSON files that is there.

        Raises:
            StorageError: If it isn't a JSON object.
        """
        file = self.find(*names)
        if file is None:
            return None
        document = read_json(file)
        if not isinstance(document, dict):
            raise StorageError(f"{file} must hold a JSON object, got {type(document).__name__}.")
        return document

    def cfg(self, name: str, library: str) -> dict[str, Any]:
        """Reads the JSON file that a checkpoint of this library has.

        Raises:
            FileNotFoundError: If it is missing.
            StorageError: If it isn't a JSON object.
        """
        document = self.json(name)
        if document is None:
            raise FileNotFoundError(f"{self.inside(None)} lacks {name}, without which {library} weights can't be read.")
        return document

    def entries(self) -> list[str]:
        """Returns the names of what lies in the folder."""
        if self.snapshot is not None:
            below = (name.removeprefix(self._start) for name in self.snapshot.names if name.startswith(self._start))
            return sorted({name.partition("/")[0] for name in below})[:MAX_ENTRIES]
        with os.scandir(self.folder) as found:
            return sorted(entry.name for entry, _ in zip(found, range(MAX_ENTRIES), strict=False))

    def inner(self, *names: str, depth: int = 2) -> list[str]:
        """Returns the folders below this one that hold any of these files, as paths from it; none of a named file."""
        if self.named is not None:
            return []
        if self.snapshot is None:
            return sorted(_below(self.folder, names, depth))
        files = (PurePosixPath(f.removeprefix(self._start)) for f in self.snapshot.names if f.startswith(self._start))
        return sorted({str(file.parent) for file in files if file.name in names and 1 < len(file.parts) <= depth + 1})

    def check_is_one(self, *names: str, what: str, depth: int = 2) -> None:
        """Refuses a folder of several checkpoints.

        Raises:
            FileNotFoundError: Which they are.
        """
        if self.named is not None or self.holds(*names):
            return
        found = self.inner(*names, depth=depth)
        if found:
            first = self.inside(found[0])
            several = f"{len(found)} {what}: {listed(found)}. Give the folder of one, such as {first}."
            one = f"a checkpoint in a folder of its own: give {first}."
            raise FileNotFoundError(f"{self} holds {several if len(found) > 1 else one}")


def _below(folder: Path, names: tuple[str, ...], depth: int) -> Iterator[str]:
    """Yields folders level by level, of no more entries than one folder may have."""
    level, left = [folder], MAX_ENTRIES
    for _ in range(depth):
        inner = [place / name for place in level for name in Place(place, None).entries()][:left]
        left -= len(inner)
        level = [entry for entry in inner if entry.is_dir() and not entry.is_symlink()]
        yield from (str(place.relative_to(folder)) for place in level if Place(place, None).holds(*names))


def listed(names: Iterable[str]) -> str:
    """Names some of many, for an error."""
    shown = [repr(name[:80]) for name in names]
    more = f" and {len(shown) - MAX_LISTED} more" if len(shown) > MAX_LISTED else ""
    return ", ".join(shown[:MAX_LISTED]) + more
