"""The text of the embedded model: the source of the running interpreter's standard library."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "evaluation"]

EVALUATION_SHARE = 0.1

# Many distributions omit tests. The other excluded files are tables, or differ between machines.
_LEFT_OUT_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
)
_LEFT_OUT_PREFIX = "_sysconfigdata"


@dataclass(frozen=True)
class SourceFile:
    """One module of the standard library.

    Attributes:
        path: POSIX path relative to the library's folder, such as ``"asyncio/events.py"``.
        text: The module's source.
    """

    path: str
    text: str

    @property
    def split(self) -> Split:
        """The split of this module, determined by a hash of its path.

        Between Python versions, the path of a module stays the same while its content changes. Two versions of a module
        are thus in the same split.
        """
        return _split(self.path)


def _split(path: str) -> Split:
    digest = hashlib.sha256(path.encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "evaluation" if share < EVALUATION_SHARE else "train"


def source_files(split: Split, stdlib: Path | None = None) -> list[SourceFile]:
    """Reads one split of the standard library's source, ordered by path.

    Args:
        split: ``"train"`` or ``"evaluation"`` (about a tenth of the modules).
        stdlib: Folder to read instead of the running interpreter's library.

    Returns:
        The modules, without tests, character tables and machine-specific files.

    Raises:
        ValueError: If ``split`` isn't one of these names.
        FileNotFoundError: If the folder has no Python source. Some distributions only include bytecode.
    """
    return list(each_file(split, stdlib))


def each_file(split: Split, stdlib: Path | None = None) -> Iterator[SourceFile]:
    """Yields the modules of `source_files`. Each is read when it is needed."""
    if split not in ("train", "evaluation"):
        raise ValueError(f"`split` must be 'train' or 'evaluation', got {split!r}.")
    root = Path(sysconfig.get_paths()["stdlib"]) if stdlib is None else Path(stdlib)
    paths = sorted(_paths(root))
    if not paths:
        raise FileNotFoundError(
            f"`stdlib` must be a folder with Python source, but {str(root)!r} has none. The text of the embedded model "
            "is the standard library's source. Install it (on Debian: libpython3-stdlib), or use other texts."
        )
    for path in paths:
        name = path.relative_to(root).as_posix()
        if _split(name) == split:
            text = path.read_text(encoding="utf-8", errors="replace")
            if text.strip():
                yield SourceFile(name, text)


def _paths(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT_FOLDERS]
        yield from (
            Path(folder, name) for name in names if name.endswith(".py") and not name.startswith(_LEFT_OUT_PREFIX)
        )
