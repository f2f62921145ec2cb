"""Upload of a folder to the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

from sparsedict.hub._address import HubAddress
from sparsedict.hub._client import client, converted_errors, library

README = "README.md"


def push(
    folder: str | os.PathLike[str],
    address: str | HubAddress,
    *,
    readme: str | None = None,
    private: bool = False,
    message: str | None = None,
) -> str:
    """Uploads the files of a folder in one commit. The repository is created if necessary.

    Other files of the repository aren't changed. Readers see either the previous files or all new files.

    Args:
        folder: The folder. Its files are uploaded recursively, except hidden ones.
        address: ``owner/repository[@branch][/path]``, with or without ``hf://``.
        readme: Model card of the folder. It also becomes the page of the repository if there is none yet.
        private: Whether a newly created repository is private.
        message: Commit message.

    Returns:
        The address of the commit's page.

    Raises:
        ImportError: If ``huggingface_hub`` isn't installed.
        FileNotFoundError: If there is no such folder, or it is empty.
        PermissionError: If the repository isn't writable.
        ConnectionError: If the hub can't be reached.
    """
    place = HubAddress.from_string(address) if isinstance(address, str) else address
    root = Path(folder)
    files = sorted(file for file in root.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(root)))
    if not files:
        raise FileNotFoundError(f"`folder` must be a folder with files to upload, but {root} has no files.")
    hub, start = library(), f"{place.path}/" if place.path else ""
    with converted_errors(place, "Pushing to"):
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
