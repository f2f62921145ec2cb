"""The embedded model's text: the running interpreter's own standard library."""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "evaluation"]

EVALUATION_SHARE = 0.1

# Tests are stripped by many distributions, the rest are tables rather than code, or differ by machine.
_LEFT_OUT_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
)
_LEFT_OUT_PREFIX = "_sysconfigdata"


@dataclass(frozen=True)
class SourceFile:
    """One module of the standard library.

    Attributes:
        path: POSIX path below the library's folder, such as ``"asyncio/events.py"``.
        text: The module's source.
    """

    path: str
    text: str

    @property
    def split(self) -> Split:
        """The side on which this module lies, decided by a hash of its path.

        A module keeps its path from one Python version to the next while its content changes by a line here
        and there. Hashing the path therefore never puts two versions of one module on different sides.
        """
        digest = hashlib.sha256(self.path.encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        return "evaluation" if share < EVALUATION_SHARE else "train"


def source_files(split: Split, stdlib: Path | None = None) -> list[SourceFile]:
    """Reads one side of the standard library's source, in the order of paths.

    Args:
        split: ``"train"`` or ``"evaluation"`` (about a tenth of the modules).
        stdlib: Folder to read instead of the running interpreter's library.

    Returns:
        The modules; tests, character tables and files generated for one machine are left out.

    Raises:
        ValueError: If ``split`` is neither name.
        FileNotFoundError: If the folder holds no Python source (some distributions ship bytecode only).
    """
    if split not in ("train", "evaluation"):
        raise ValueError(f"`split` must be 'train' or 'evaluation', got {split!r}.")
    root = Path(sysconfig.get_paths()["stdlib"]) if stdlib is None else Path(stdlib)
    files = [file for path in sorted(root.rglob("*.py")) if (file := _read(path, root)) is not None]
    if not files:
        raise FileNotFoundError(
            f"No Python source found in the standard library folder {str(root)!r}. The embedded model's text is "
            "the standard library's source: install it (on Debian: libpython3-stdlib) or pass your own texts."
        )
    return [file for file in files if file.split == split]


def _read(path: Path, root: Path) -> SourceFile | None:
    relative = path.relative_to(root)
    if _LEFT_OUT_FOLDERS.intersection(relative.parts) or relative.name.startswith(_LEFT_OUT_PREFIX):
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    return SourceFile(relative.as_posix(), text) if text.strip() else None
