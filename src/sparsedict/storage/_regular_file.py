from __future__ import annotations

from pathlib import Path

from sparsedict.storage._json import StorageError


def regular_file(folder: Path, name: str) -> Path | None:
    """Returns a file of a folder; ``None`` where it is missing.

    A link is followed within the folder, and from a snapshot of the Hugging Face cache to the blobs of the same
    repository, which is how that cache keeps its files.

    Raises:
        StorageError: If the name or a link leads out of the folder, or what is there isn't a regular file.
    """
    file = folder / name
    if file.name != name:
        raise StorageError(f"{folder}: a file's name must lie in the folder, got {name!r}.")
    try:
        target = file.resolve(strict=True)
    except FileNotFoundError:
        if file.is_symlink():
            raise StorageError(f"{file} is a link to nowhere: {file.readlink()}.") from None
        return None
    except (OSError, RuntimeError) as error:
        raise StorageError(f"{file} can't be followed: {error}.") from None
    homes = (folder.resolve(), *_blobs(folder.resolve()))
    if not any(target.is_relative_to(home) for home in homes):
        raise StorageError(
            f"{file} is a link that leads out of its folder, to {target}. If you trust it, put the file itself there."
        )
    if not target.is_file():
        raise StorageError(f"{file} must be a regular file, but it is {'a folder' if target.is_dir() else 'none'}.")
    return file


def _blobs(folder: Path) -> list[Path]:
    """Returns where the Hugging Face cache keeps the content of a snapshot that the folder lies in."""
    snapshots = [parent.parent for parent in (folder, *folder.parents) if parent.parent.name == "snapshots"]
    return [place.parent / "blobs" for place in snapshots if place.parent.name.startswith(("models--", "datasets--"))]
