"""Paths of regular files in a folder, which reject links to other places."""

from __future__ import annotations

from pathlib import Path

from sparsedict.storage._json import StorageError


def regular_file(folder: Path, name: str) -> Path | None:
    """Returns the path of a file in a folder, or ``None`` if it is missing.

    Links are followed within the folder, and from a snapshot in the Hugging Face cache to the blobs of the same
    repository.

    Raises:
        StorageError: If the name or a link leads out of the folder, or the path isn't a regular file.
    """
    file = folder / name
    if file.name != name:
        raise StorageError(f"A file name must not lead out of the folder {folder}, got {name!r}.")
    try:
        target = file.resolve(strict=True)
    except FileNotFoundError:
        if file.is_symlink():
            raise StorageError(f"{file} is a broken link to {file.readlink()}.") from None
        return None
    except (OSError, RuntimeError) as error:
        raise StorageError(f"The link {file} can't be resolved: {error}.") from None
    homes = (folder.resolve(), *_blobs(folder.resolve()))
    if not any(target.is_relative_to(home) for home in homes):
        raise StorageError(
            f"{file} must not link out of its folder, but links to {target}. If you trust the target, copy it to "
            f"{file}."
        )
    if not target.is_file():
        raise StorageError(
            f"{file} must be a regular file, got {'a folder' if target.is_dir() else 'another kind of file'}."
        )
    return file


def _blobs(folder: Path) -> list[Path]:
    """Returns the folders with the blobs of the Hugging Face snapshot that contains the folder."""
    snapshots = [parent.parent for parent in (folder, *folder.parents) if parent.parent.name == "snapshots"]
    return [place.parent / "blobs" for place in snapshots if place.parent.name.startswith(("models--", "datasets--"))]
