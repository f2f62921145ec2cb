"""The two files of a saved dictionary, written as one and read with their errors named."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsedict.storage._atomic import replace_file, sync_folder
from sparsedict.storage._description import MAX_BYTES, Description, StorageError

DESCRIPTION = "dictionary.json"
WEIGHTS = "dictionary.safetensors"

_LEFT_BEHIND = re.compile(rf"\.?{re.escape(WEIGHTS)}\.[0-9a-f]{{64}}(\.writing)?")


def write_dictionary(folder: Path, description: Description, weights: Mapping[str, Tensor]) -> None:
    """Writes both files; an interruption leaves the pair that was there, or the new one.

    Args:
        folder: Made where it doesn't exist; an older dictionary in it is replaced.
        description: What the weights are the weights of.
        weights: By name, as in ``Dictionary.state_dict()``.

    Raises:
        NotADirectoryError: If the path is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"`path` must be a folder to save into, but {folder} is a file.")
    tensors = _own_memory(weights)
    digest = _digest(tensors)
    encoded = description.to_json(digest)
    folder.mkdir(parents=True, exist_ok=True)
    pending = folder / f"{WEIGHTS}.{digest}"
    replace_file(pending, lambda file: _write_tensors(file, tensors, digest))
    replace_file(folder / DESCRIPTION, lambda file: _write_bytes(file, encoded))
    pending.replace(folder / WEIGHTS)
    sync_folder(folder)
    # What earlier saves left behind when they were interrupted.
    for file in folder.iterdir():
        if _LEFT_BEHIND.fullmatch(file.name):
            shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)


def read_description(folder: Path) -> tuple[Description, str]:
    """Reads what a saved dictionary is, and the digest of its weights.

    Raises:
        FileNotFoundError: If there is no such folder, or no dictionary in it.
        StorageError: If the JSON is broken, too large or of a newer version.
    """
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "doesn't exist"
        raise FileNotFoundError(f"`path` must be the folder of a saved dictionary, but {folder} {state}.")
    file = folder / DESCRIPTION
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no saved dictionary: {DESCRIPTION} is missing.")
    with file.open("rb") as stream:
        encoded = stream.read(MAX_BYTES + 1)
    if len(encoded) > MAX_BYTES:
        raise StorageError(f"{file} is larger than {MAX_BYTES:,} bytes: it can't be the description of a dictionary.")
    return Description.from_json(encoded, str(file))


def weight_shapes(folder: Path, digest: str) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the stored weights by name, without reading the weights.

    Raises:
        FileNotFoundError: If the file is missing.
        StorageError: If it is truncated or broken, or belongs to another description.
    """
    with _opened(folder, digest, "cpu") as stored:
        return {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118


def read_weights(folder: Path, digest: str, device: torch.device | str | None = None) -> dict[str, Tensor]:
    """Returns the stored weights by name, each in memory of its own.

    Raises:
        FileNotFoundError: If the file is missing.
        StorageError: If it is truncated or broken, or belongs to another description.
    """
    with _opened(folder, digest, str(device or "cpu")) as stored:
        # The file's memory map would otherwise stay open as long as the weights live.
        return {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118


@contextmanager
def _opened(folder: Path, digest: str, device: str) -> Iterator[Any]:
    try:
        file = folder / f"{WEIGHTS}.{digest}"
        stored = _open(file, device)
    except FileNotFoundError:
        file = folder / WEIGHTS
        if not file.is_file():
            raise FileNotFoundError(f"{folder} holds no weights: {WEIGHTS} is missing.") from None
        stored = _open(file, device)
    with stored as handle:
        if (handle.metadata() or {}).get("digest") != digest:
            raise StorageError(f"{file} doesn't belong to the {DESCRIPTION} beside it: their digests differ.")
        try:
            yield handle
        except SafetensorError as error:
            raise StorageError(f"{file} is broken: {error}.") from None


def _open(file: Path, device: str) -> Any:
    try:
        return safe_open(file, framework="pt", device=device)
    except SafetensorError as error:
        raise StorageError(f"{file} is truncated or isn't a safetensors file: {error}.") from None


def _write_tensors(file: Path, tensors: dict[str, Tensor], digest: str) -> None:
    file.touch()
    mode = file.stat().st_mode
    try:
        save_file(tensors, file, metadata={"digest": digest})
        file.chmod(mode)  # as files are made here, not for their owner alone
    except SafetensorError as error:
        raise OSError(f"The weights could not be written to {file.parent}: {error}.") from None


def _write_bytes(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _own_memory(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies to the CPU; tensors that share memory are each written in full."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, weight in weights.items():
        tensor = weight.detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
