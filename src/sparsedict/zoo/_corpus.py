"""The text of the embedded model: the source of the running interpreter's standard library."""

from __future__ import annotations

import hashlib
import sysconfig
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
        digest = hashlib.sha256(self.path.encode()).digest()
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
    if split not in ("train", "evaluation"):
        raise ValueError(f"`split` must be 'train' or 'evaluation', got {split!r}.")
    root = Path(sysconfig.get_paths()["stdlib"]) if stdlib is None else Path(stdlib)
    files = [file for path in sorted(root.rglob("*.py")) if (file := _read(path, root)) is not None]
    if not files:
        raise FileNotFoundError(
            f"`stdlib` must be a folder with Python source, but {str(root)!r} has none. The text of the embedded model "
            "is the standard library's source. Install it (on Debian: libpython3-stdlib), or use other texts."
        )
    return [file for file in files if file.split == split]


def _read(path: Path, root: Path) -> SourceFile | None:
    relative = path.relative_to(root)
    if _LEFT_OUT_FOLDERS.intersection(relative.parts) or relative.name.startswith(_LEFT_OUT_PREFIX):
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    return SourceFile(relative.as_posix(), text) if text.strip() else None
