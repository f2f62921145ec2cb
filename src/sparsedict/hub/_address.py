"""`HubAddress`, an address of a repository or a file on the Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEME = "hf://"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}")


def is_address(path: object) -> bool:
    """Whether a path is an address on the hub, rather than a local path."""
    return isinstance(path, str) and path.startswith(SCHEME)


@dataclass(frozen=True)
class HubAddress:
    """Address of a repository on the hub, or of a folder or file in it.

    Attributes:
        repository: ``"owner/name"``.
        path: Path of a folder or file in the repository; empty for the repository itself.
        revision: A branch, tag or commit; ``None`` for the main branch.

    Example:
        >>> HubAddress.from_string("hf://owner/saes@v1/layer_3")
        HubAddress(repository='owner/saes', path='layer_3', revision='v1')
    """

    repository: str
    path: str = ""
    revision: str | None = None

    @classmethod
    def from_string(cls, text: str) -> HubAddress:
        """Parses an address. ``hf://`` is optional, and the revision may also be at the end.

        Raises:
            ValueError: If the text isn't an address.
        """
        owner, _, rest = text.removeprefix(SCHEME).partition("/")
        name, _, path = rest.partition("/")
        name, at, revision = name.partition("@")
        if path and not at:
            path, at, revision = path.rpartition("@") if "@" in path else (path, "", "")
        path = path.strip("/")
        fine = _NAME.fullmatch(owner) and _NAME.fullmatch(name) and (revision or not at)
        if not fine or not _is_plain(path) or (revision and not _is_plain(revision)):
            raise ValueError(
                f"An address on the hub must have the form `hf://owner/repository[@revision][/path]`, got {text!r}."
            )
        return cls(f"{owner}/{name}", path, revision or None)

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{self.repository}{revision}{'/' * bool(self.path)}{self.path}"


def _is_plain(path: str) -> bool:
    """Whether a path can't leave its root folder, on any system."""
    parts = path.split("/") if path else []
    return all(part not in ("", ".", "..") for part in parts) and not re.search(r"[\\\x00-\x1f]", path)
