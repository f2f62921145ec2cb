from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from sparsedict.hub._address import HubAddress, _is_plain
from sparsedict.hub._client import client, explained, library
from sparsedict.storage import DESCRIPTION, WEIGHTS

_WEIGHTS = (".safetensors", ".npz", ".pt", ".pth", ".bin")
_DESCRIPTIONS = (".json", ".yaml", ".yml")


def fetch(address: str | HubAddress) -> Path:
    """Downloads what a dictionary needs into the local cache of ``huggingface_hub``, and returns where it lies.

    Of a folder of the library's own format these are its two files; of another folder, the weights and descriptions
    that lie directly in it; of a file, that file and the descriptions beside it. What the cache holds already isn't
    downloaded again, and serves where the hub can't be reached.

    Args:
        address: ``hf://owner/repository[@revision][/path]``.

    Returns:
        The folder or the file, as the address named it.

    Raises:
        ImportError: If ``huggingface_hub`` isn't installed.
        ValueError: If it isn't an address.
        FileNotFoundError: If the repository, its revision or the path isn't there, or holds no weights.
        PermissionError: If it is gated.
        ConnectionError: If the hub can't be reached and the cache doesn't hold it.
    """
    place = HubAddress.of(address) if isinstance(address, str) else address
    hub = library()
    api = client()
    with explained(place, "Loading"):
        try:
            # A listing is tried again and again where nobody answers; this asks once.
            api.repo_info(place.repository, revision=place.revision)
            listed: list[str] = api.list_repo_files(place.repository, revision=place.revision)
        except Exception as error:
            cached = _cached(hub, place)
            if cached is None or isinstance(error, hub.errors.RepositoryNotFoundError):
                raise
            return cached
        names = needed(listed, place)
        snapshot = api.snapshot_download(
            place.repository, revision=place.revision, allow_patterns=[glob.escape(name) for name in names]
        )
    return Path(snapshot) / place.path


def needed(listed: Iterable[str], place: HubAddress) -> list[str]:
    """Returns which of a repository's files a dictionary at this place needs.

    Raises:
        FileNotFoundError: If nothing is there that could be one.
    """
    names = [name for name in listed if _is_plain(name)]
    if place.path in names:
        beside = str(PurePosixPath(place.path).parent)
        return [place.path, *_directly_in(names, "" if beside == "." else beside, _DESCRIPTIONS)]
    found = _directly_in(names, place.path, _WEIGHTS + _DESCRIPTIONS)
    own = [name for name in found if PurePosixPath(name).name in (DESCRIPTION, WEIGHTS)]
    if any(PurePosixPath(name).name == DESCRIPTION for name in own):
        return own
    if not any(name.endswith(_WEIGHTS) for name in found):
        start = f"{place.path}/" if place.path else ""
        below = sorted({str(PurePosixPath(n).parent) for n in names if n.startswith(start) and n.endswith(_WEIGHTS)})
        hint = f" There are some in {', '.join(below[:8])}{', ...' * (len(below) > 8)}." if below else ""
        raise FileNotFoundError(f"{place} holds no weights of a dictionary.{hint}")
    return found


def _directly_in(names: Iterable[str], folder: str, endings: tuple[str, ...]) -> list[str]:
    start = f"{folder}/" if folder else ""
    return [n for n in names if n.startswith(start) and "/" not in n[len(start) :] and n.endswith(endings)]


def _cached(hub: Any, place: HubAddress) -> Path | None:
    """Finds what an earlier download left in the cache."""
    revision = place.revision or "main"
    try:
        repositories = hub.scan_cache_dir().repos
    except hub.errors.CacheNotFound:
        return None
    snapshots = [
        found.snapshot_path
        for repository in repositories
        if repository.repo_id == place.repository and repository.repo_type == "model"
        for found in repository.revisions
        if revision in found.refs or found.commit_hash == revision
    ]
    return next((path for snapshot in snapshots if (path := Path(snapshot) / place.path).exists()), None)
