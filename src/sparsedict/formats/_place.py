"""Where a checkpoint lies: a folder, or one of its files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsedict import hub
from sparsedict.storage import StorageError, read_json, regular_file

MOST_LISTED = 12
MOST_ENTRIES = 10_000
"""Entries of a folder that are looked at: a folder of more isn't one of checkpoints."""


@dataclass(frozen=True)
class Place:
    """A folder of checkpoint files, and the file in it that was named, if one was.

    Attributes:
        folder: Where the files lie.
        named: The file that the path named; ``None`` where it named the folder.
    """

    folder: Path
    named: str | None

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Place:
        """Finds what a path names; what an address on the hub names is downloaded.

        Raises:
            FileNotFoundError: If there is nothing of that name.
            ConnectionError: If the hub can't be reached.
        """
        found = hub.fetch(path) if isinstance(path, str) and hub.is_address(path) else Path(path)
        if found.is_dir():
            return cls(found, None)
        if not os.path.lexists(found):
            raise FileNotFoundError(f"`path` must be a checkpoint's folder or file, but {found} doesn't exist.")
        return cls(found.parent, found.name)

    def __str__(self) -> str:
        return str(self.folder if self.named is None else self.folder / self.named)

    @property
    def suffix(self) -> str:
        return Path(self.named or "").suffix

    def holds(self, *names: str) -> bool:
        """Whether any of these files is in the folder, whatever it holds."""
        return any(os.path.lexists(self.folder / name) for name in names)

    def find(self, *names: str) -> Path | None:
        """Returns the first of these files that is in the folder.

        Raises:
            StorageError: If it is a link out of the folder, or no regular file.
        """
        return next((file for name in names if (file := regular_file(self.folder, name)) is not None), None)

    def weights(self, *names: str, suffix: str) -> Path:
        """Returns the file of weights: the one that was named, if it ends so, else the first of these that is there.

        Raises:
            FileNotFoundError: If none is there.
            StorageError: If it is a link out of the folder, or no regular file.
        """
        file = self.find(*([self.named] if self.named and self.named.endswith(suffix) else names))
        if file is None:
            raise FileNotFoundError(f"{self.folder} lacks the file of weights, {' or '.join(names)}.")
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
            raise FileNotFoundError(f"{self.folder} lacks {name}, without which {library} weights can't be read.")
        return document

    def entries(self) -> list[Path]:
        """Returns what lies in the folder, by name."""
        with os.scandir(self.folder) as found:
            names = [entry.name for entry, _ in zip(found, range(MOST_ENTRIES), strict=False)]
        return [self.folder / name for name in sorted(names)]

    def inner(self, *names: str, depth: int = 2) -> list[str]:
        """Returns the folders below this one that hold any of these files, as paths from it; none of a named file."""
        return [] if self.named is not None else sorted(_below(self.folder, names, depth))

    def check_is_one(self, *names: str, what: str, depth: int = 2) -> None:
        """Refuses a folder of several checkpoints.

        Raises:
            FileNotFoundError: Which they are.
        """
        if self.named is not None or self.holds(*names):
            return
        found = self.inner(*names, depth=depth)
        if found:
            several = f"{len(found)} {what}: {listed(found)}. Give the folder of one, such as {self.folder / found[0]}."
            one = f"a checkpoint in a folder of its own: give {self.folder / found[0]}."
            raise FileNotFoundError(f"{self.folder} holds {several if len(found) > 1 else one}")


def _below(folder: Path, names: tuple[str, ...], depth: int) -> Iterator[str]:
    """Yields folders level by level, of no more entries than one folder may have."""
    level, left = [folder], MOST_ENTRIES
    for _ in range(depth):
        inner = [entry for place in level for entry in Place(place, None).entries()][:left]
        left -= len(inner)
        level = [entry for entry in inner if entry.is_dir() and not entry.is_symlink()]
        yield from (str(place.relative_to(folder)) for place in level if Place(place, None).holds(*names))


def listed(names: Iterable[str]) -> str:
    """Names some of many, for an error."""
    shown = [repr(name[:80]) for name in names]
    more = f" and {len(shown) - MOST_LISTED} more" if len(shown) > MOST_LISTED else ""
    return ", ".join(shown[:MOST_LISTED]) + more
