from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sparsedict.hub._address import HubAddress, _is_plain
from sparsedict.hub._client import client, explained, library

_WEIGHTS = (".safetensors", ".npz", ".pt", ".pth", ".bin")
_DESCRIPTIONS = (".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Snapshot:
    """A repository on the hub at one commit, whose files are downloaded when they are asked for.

    They lie in the cache of ``huggingface_hub``: what it holds already isn't downloaded again, and serves where the hub
    can't be reached.

    Attributes:
        address: What was asked for: a folder of the repository, or a file.
        root: Where the repository lies in the cache.
        names: Its files by their paths; where the hub can't be reached, those that the cache holds.
        is_offline: Whether the hub couldn't be reached.
    """

    address: HubAddress
    root: Path
    names: tuple[str, ...]
    is_offline: bool

    @classmethod
    def from_address(cls, address: str | HubAddress) -> Snapshot:
        """Finds what is there.

        Args:
            address: ``hf://owner/repository[@revision][/path]``.

        Raises:
            ImportError: If ``huggingface_hub`` isn't installed.
            ValueError: If it isn't an address.
            FileNotFoundError: If the repository, its revision or the path isn't there.
            PermissionError: If it is gated.
            ConnectionError: If the hub can't be reached and the cache doesn't hold it.
        """
        place = HubAddress.from_string(address) if isinstance(address, str) else address
        hub, api = library(), client()
        with explained(place, "Loading"):
            try:
                # A listing is tried again and again where nobody answers; this asks once.
                api.repo_info(place.repository, revision=place.revision)
                listed: list[str] = api.list_repo_files(place.repository, revision=place.revision)
            except Exception as error:
                root = _cached(hub, place)
                if root is None or isinstance(error, hub.errors.RepositoryNotFoundError):
                    raise
                found = (file.relative_to(root).as_posix() for file in sorted(root.rglob("*")) if file.is_file())
                return cls(place, root, tuple(found), is_offline=True)
            names = tuple(name for name in listed if _is_plain(name))
            # The cache then knows the branch by name; all that follows is of its commit.
            root = api.snapshot_download(
                place.repository, revision=place.revision, allow_patterns=[glob.escape(_first(names, place))]
            )
        return cls(place, Path(root), names, is_offline=False)

    @property
    def is_file(self) -> bool:
        """Whether the address names a file."""
        return self.address.path in self.names

    def download(self, name: str) -> None:
        """Sees to it that a file lies below the root.

        Raises:
            FileNotFoundError: If the repository has none of that name any more.
            PermissionError: If it is gated.
            ConnectionError: If the hub can't be reached.
        """
        if not (self.root / name).exists():
            with explained(self.address, "Loading"):
                client().hf_hub_download(self.address.repository, name, revision=self.root.name)

    def with_weights(self) -> list[str]:
        """Returns the folders below the address that hold weights of some kind, as paths in the repository."""
        start = f"{self.address.path}/" if self.address.path else ""
        files = (name for name in self.names if name.startswith(start) and name.endswith(_WEIGHTS))
        return sorted({str(PurePosixPath(name).parent) for name in files})

    def address_of(self, path: str) -> HubAddress:
        """Returns the address of a file or folder."""
        return HubAddress(self.address.repository, path, self.address.revision)


def _first(names: tuple[str, ...], place: HubAddress) -> str:
    """Returns a file to begin with, by which the commit gets its place on the disk: a small one, where there is one.

    Raises:
        FileNotFoundError: If there is nothing of that path.
    """
    if place.path in names:
        return place.path
    start = f"{place.path}/" if place.path else ""
    if not any(name.startswith(start) for name in names):
        raise FileNotFoundError(f"{place}: the repository has no such path, or nothing in it.")
    return min(names, key=lambda name: (name.endswith(_WEIGHTS), not name.startswith(start), _rank(name), name))


def _rank(name: str) -> tuple[bool, int]:
    """What is asked for first is a description in the folder itself."""
    return not name.endswith(_DESCRIPTIONS), name.count("/")


def _cached(hub: Any, place: HubAddress) -> Path | None:
    """Finds what earlier downloads left in the cache."""
    revision = place.revision or "main"
    try:
        repositories = hub.scan_cache_dir(hub.constants.HF_HUB_CACHE).repos
    except hub.errors.CacheNotFound:
        return None
    snapshots = [
        found.snapshot_path
        for repository in repositories
        if repository.repo_id == place.repository and repository.repo_type == "model"
        for found in repository.revisions
        if revision in found.refs or found.commit_hash == revision
    ]
    return next((Path(snapshot) for snapshot in snapshots if (Path(snapshot) / place.path).exists()), None)
