"""`Snapshot`, the files of one revision of a repository, downloaded on demand."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sparsedict.hub._address import HubAddress, _is_plain
from sparsedict.hub._client import client, converted_errors, library

_WEIGHTS = (".safetensors", ".npz", ".pt", ".pth", ".ckpt", ".bin")
_DESCRIPTIONS = (".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Snapshot:
    """A repository on the hub at one commit, whose files are downloaded on demand.

    Files are stored in the cache of ``huggingface_hub``. Cached files aren't downloaded again, and are available
    without a connection.

    Attributes:
        address: Address of a folder or a file in the repository.
        root: Folder of the repository in the cache.
        names: Paths of all files; without a connection, of the cached files.
        is_offline: Whether the hub couldn't be reached.
    """

    address: HubAddress
    root: Path
    names: tuple[str, ...]
    is_offline: bool

    @classmethod
    def from_address(cls, address: str | HubAddress) -> Snapshot:
        """Finds a repository on the hub, or in the cache if the hub can't be reached.

        Args:
            address: ``hf://owner/repository[@revision][/path]``.

        Raises:
            ImportError: If ``huggingface_hub`` isn't installed.
            ValueError: If ``address`` isn't an address.
            FileNotFoundError: If the repository, its revision or the path doesn't exist.
            PermissionError: If the repository is gated.
            ConnectionError: If the hub can't be reached and the repository isn't in the cache.
        """
        place = HubAddress.from_string(address) if isinstance(address, str) else address
        hub, api = library(), client()
        with converted_errors(place, "Loading"):
            try:
                # Without a connection, listing files would retry many times. This request is sent once.
                api.repo_info(place.repository, revision=place.revision)
                listed: list[str] = api.list_repo_files(place.repository, revision=place.revision)
            except Exception as error:
                root = _cached(hub, place)
                if root is None or isinstance(error, hub.errors.RepositoryNotFoundError):
                    raise
                found = (file.relative_to(root).as_posix() for file in sorted(root.rglob("*")) if file.is_file())
                return cls(place, root, tuple(found), is_offline=True)
            names = tuple(name for name in listed if _is_plain(name))
            # This stores the commit of the branch in the cache. All later requests use this commit.
            root = api.snapshot_download(
                place.repository, revision=place.revision, allow_patterns=[glob.escape(_first(names, place))]
            )
        return cls(place, Path(root), names, is_offline=False)

    @property
    def is_file(self) -> bool:
        """Whether the address is that of a file."""
        return self.address.path in self.names

    def download(self, name: str) -> None:
        """Downloads a file to the root folder, unless it is there.

        Raises:
            FileNotFoundError: If the repository has no such file any more.
            PermissionError: If the repository is gated.
            ConnectionError: If the hub can't be reached.
        """
        if not (self.root / name).exists():
            with converted_errors(self.address, "Loading"):
                client().hf_hub_download(self.address.repository, name, revision=self.root.name)

    def with_weights(self) -> list[str]:
        """Returns the folders below the address that contain weights, as paths in the repository."""
        start = f"{self.address.path}/" if self.address.path else ""
        files = (name for name in self.names if name.startswith(start) and name.endswith(_WEIGHTS))
        return sorted({str(PurePosixPath(name).parent) for name in files})

    def address_of(self, path: str) -> HubAddress:
        """Returns the address of a file or folder in the repository."""
        return HubAddress(self.address.repository, path, self.address.revision)


def _first(names: tuple[str, ...], place: HubAddress) -> str:
    """Returns the file to download first, which creates the folder of the commit. Small files are preferred.

    Raises:
        FileNotFoundError: If there is no file at the path.
    """
    if place.path in names:
        return place.path
    start = f"{place.path}/" if place.path else ""
    if not any(name.startswith(start) for name in names):
        raise FileNotFoundError(f"{place}: the repository has no such path, or it is empty.")
    return min(names, key=lambda name: (name.endswith(_WEIGHTS), not name.startswith(start), _rank(name), name))


def _rank(name: str) -> tuple[bool, int]:
    """Returns a sort key by which descriptions in the folder itself come first."""
    return not name.endswith(_DESCRIPTIONS), name.count("/")


def _cached(hub: Any, place: HubAddress) -> Path | None:
    """Returns the folder of an earlier download in the cache."""
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
