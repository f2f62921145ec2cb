"""`DataName`, the name of data on the command line."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from sparsedict.cli._errors import OptionError

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
MAX_SUGGESTIONS = 3


@dataclass(frozen=True)
class DataName:
    """A name of the form ``PATH``, ``NAME``, ``NAME:CONFIG``, ``NAME:CONFIG:SPLIT`` or ``NAME::SPLIT``.

    Attributes:
        option: The command-line option of the name, for error messages.
        name: Name of a file, a folder or a dataset on the hub.
        config: Configuration of a dataset, or ``None`` for the default.
        split: Split of a dataset, or ``None`` for the default.
        has_parts: Whether the name itself has the configuration or the split.
    """

    option: str
    name: str
    config: str | None
    split: str | None
    has_parts: bool = False

    @classmethod
    def parse(cls, text: str, config: str | None, split: str | None, option: str) -> DataName:
        """Parses a name.

        Args:
            text: The name.
            config: The value of ``--config``.
            split: The value of ``--split``. Names of other options than ``--data`` may have their own.
            option: The command-line option of the name.

        Raises:
            ValueError: If the name has more than three parts, or contradicts ``--config`` or ``--split``.
        """
        if not text.strip():
            raise OptionError(f"{option} must be the name of a file, a folder or a dataset, got {text!r}.")
        name, *parts = _split(text, Path())
        if len(parts) > 2:
            raise OptionError(f"{option} must have the form NAME:CONFIG:SPLIT, got {text!r}.")
        if parts and option != "--data":
            config = split = None
        own_config, own_split = (part or None for part in (*parts, "", "")[:2])
        for asked, own, other in (("--config", own_config, config), ("--split", own_split, split)):
            if own is not None and other is not None and own != other:
                raise OptionError(f"{asked} and {option} must agree, got {other!r} and {own!r}.")
        return cls(option, name, own_config or config, own_split or split, bool(parts))

    def check_no_parts(self, reason: str, *, config: bool = True, split: bool = True) -> None:
        """Checks that neither a configuration nor a split is given.

        Args:
            reason: Why the data has none.
            config: Whether to check the configuration.
            split: Whether to check the split.

        Raises:
            ValueError: If one is given.
        """
        # Options of --data needn't apply to other data of --held-out.
        if self.option != "--data" and not self.has_parts:
            return
        for name, part in (("config", self.config if config else None), ("split", self.split if split else None)):
            if part is not None and self.has_parts:
                raise OptionError(f"{self.option} must be {self.name!r} without {part!r}, {reason}.")
            if part is not None:
                raise OptionError(f"--{name} must be omitted for {self.option} {self.name!r}, {reason}, got {part!r}.")

    @property
    def path(self) -> Path:
        return Path(self.name).expanduser()

    @property
    def files(self) -> list[Path]:
        """The files that match a pattern such as ``texts/*.txt``."""
        return [] if self.path.exists() else _matching(self.path)

    @property
    def is_local(self) -> bool:
        """Whether the name is that of files or a folder."""
        return self.path.exists() or bool(self.files)

    @property
    def places(self) -> set[Path]:
        """The real paths of the files or the folder."""
        return {path.resolve() for path in self.files or [self.path]}

    def missing(self, suffixes: tuple[str, ...]) -> FileNotFoundError | None:
        """Returns the error for a name that doesn't exist and can't be on the hub, or None.

        Args:
            suffixes: Suffixes of files that can be read.
        """
        parent = self.path.parent
        if self.path.is_symlink():
            return FileNotFoundError(
                f"{self.option} must be existing data, but {self.name!r} is a link to {str(self.path.readlink())!r}, "
                "which doesn't exist."
            )
        beside = sorted(entry.name for entry in parent.iterdir()) if parent.is_dir() else []
        near = get_close_matches(self.path.name, beside, MAX_SUGGESTIONS, 0.7)
        local = (
            self.name.startswith((".", "/", "~"))
            or self.path.suffix in suffixes
            or not HUB_NAME.fullmatch(self.name)
            or (str(parent) != "." and parent.is_dir())
            or bool(near)
        )
        if not local:
            return None
        if near:
            remedy = f" Similar names: {', '.join(str(parent / name) for name in near)}."
        elif beside and str(parent) != ".":
            remedy = f" The folder {str(parent)!r} contains {', '.join(beside[:8])}{', ...' * (len(beside) > 8)}."
        else:
            remedy = "" if parent.is_dir() else f" There is no folder {str(parent)!r}."
        return FileNotFoundError(
            f"{self.option} must be existing data, but there is no file or folder {self.name!r}.{remedy}"
        )


def absolute_name(text: str, folder: Path) -> str | None:
    """Returns a name of data with the absolute path of its file, folder or pattern, or None if a folder has no such.

    Args:
        text: The name, see `DataName`.
        folder: The folder of relative paths.
    """
    name, *parts = _split(text, folder)
    path = Path(name).expanduser()
    if not name.strip():
        return None
    if (folder / path).exists():
        return ":".join([str(absolute_path(folder / path)), *parts])
    pattern = _pattern(path, folder)
    return ":".join([os.path.normpath(pattern), *parts]) if _matching(pattern) else None


def absolute_path(path: Path) -> Path:
    """Returns an existing path as an absolute path, without ``..``. Links are kept, because their names have suffixes.

    A ``..`` after a link is kept too.
    """
    found = Path(os.path.abspath(path))
    return found if found.exists() and found.samefile(path) else path.absolute()


def _pattern(path: Path, folder: Path) -> Path:
    """Returns a pattern of files in a folder, whose own name may have the characters of patterns."""
    return Path(glob.escape(os.path.abspath(folder))) / path


def _matching(pattern: Path) -> list[Path]:
    """Returns the files that match a pattern."""
    if not glob.has_magic(str(pattern)):
        return []
    root = Path(pattern.anchor) if pattern.is_absolute() else Path()
    return sorted(file for file in root.glob(str(pattern.relative_to(root))) if file.is_file())


def _split(text: str, folder: Path) -> list[str]:
    """Divides a name at colons, except those in the path of an existing file or folder."""
    if "://" in text:
        return [text]
    parts = text.split(":")
    for n in range(len(parts), 0, -1):
        name = ":".join(parts[:n])
        path = Path(name).expanduser()
        if name.strip() and ((folder / path).exists() or _matching(_pattern(path, folder))):
            return [name, *parts[n:]]
    drive = re.match(r"[A-Za-z]:[\\/]", text)
    start = drive.end() if drive else 0
    name, *parts = text[start:].split(":")
    return [text[:start] + name, *parts]


def overlap(one: str, other: str, config: str | None, split: str | None) -> bool:
    """Returns whether two names have the same dataset, or files of the same split.

    Args:
        one: A name, see `DataName`.
        other: A name that may have its own configuration and split.
        config: The value of ``--config``.
        split: The value of ``--split``.
    """
    first = DataName.parse(one, config, split, "--data")
    second = DataName.parse(other, config, split, "--held-out")
    if (first.config, first.split) != (second.config, second.split):
        return False
    if not (first.is_local and second.is_local):
        return first.name == second.name
    places, others = first.places, second.places
    return any(_inside(place, others) for place in places) or any(_inside(place, places) for place in others)


def _inside(path: Path, folders: Collection[Path]) -> bool:
    """Returns whether a path is one of the paths, or in one of them."""
    return path in folders or any(parent in folders for parent in path.parents)
