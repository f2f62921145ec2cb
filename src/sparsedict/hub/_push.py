from __future__ import annotations

import os
from pathlib import Path

from sparsedict.hub._address import HubAddress
from sparsedict.hub._client import client, explained, library

README = "README.md"


def push(
    folder: str | os.PathLike[str],
    address: str | HubAddress,
    *,
    readme: str | None = None,
    private: bool = False,
    message: str | None = None,
) -> str:
    """Uploads the files of a folder in one commit; the repository is made where it doesn't exist.

    Whoever loads it sees what was there before or all of the new files. Other files of the repository stay.

    Args:
        folder: Its files are uploaded, those of folders in it too; hidden ones aren't.
        address: ``owner/repository[@branch][/path]``, with or without ``hf://``.
        readme: Of the folder. It becomes the repository's page too, where that has none yet.
        private: Whether a repository that is made now is private.
        message: Of the commit.

    Returns:
        The commit's page.

    Raises:
        ImportError: If ``huggingface_hub`` isn't installed.
        FileNotFoundError: If there is no such folder, or it is empty.
        PermissionError: If the repository may not be written.
        ConnectionError: If the hub can't be reached.
    """
    place = HubAddress.from_string(address) if isinstance(address, str) else address
    root = Path(folder)
    files = sorted(file for file in root.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(root)))
    if not files:
        raise FileNotFoundError(f"`folder` must be a folder with files to upload, but {root} has none.")
    hub, start = library(), f"{place.path}/" if place.path else ""
    with explained(place, "Pushing to"):
        api = client()
        api.create_repo(place.repository, private=private, exist_ok=True)
        content: dict[str, Path | bytes] = {f"{start}{file.relative_to(root).as_posix()}": file for file in files}
        if readme is not None:
            content[f"{start}{README}"] = readme.encode()
            if start and not api.file_exists(place.repository, README, revision=place.revision):
                content[README] = readme.encode()
        committed = api.create_commit(
            place.repository,
            [hub.CommitOperationAdd(name, value) for name, value in content.items()],
            commit_message=message or f"Upload {place.path or 'dictionary'}",
            revision=place.revision,
        )
    return str(committed.commit_url)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
