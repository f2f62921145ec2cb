"""Files with rows of tensors that several processes hold, written by ``torch.distributed.checkpoint``.

The import of ``torch.distributed.checkpoint`` takes half as long as that of ``torch``. Import this module where needed.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from sparsedict.storage._json import StorageError

METADATA = ".metadata"


def write_rows(folder: Path, rows: Mapping[str, Tensor], group: dist.ProcessGroup | None) -> None:
    """Writes tensors to a new folder, of which each process writes the rows that it holds. It is collective.

    Args:
        folder: The folder, in a file system that all processes share.
        rows: Tensors by name: those that are divided as a ``DTensor``.
        group: The processes.

    Raises:
        OSError: On all processes, if one of them can't write.
    """
    try:
        save(dict(rows), storage_writer=FileSystemWriter(folder), process_group=group)
    except CheckpointException as error:
        causes = {rank: found for rank, (found, _) in error.failures.items()}
        rank, cause = next(((r, c) for r, c in causes.items() if isinstance(c, OSError)), next(iter(causes.items())))
        number = cause.errno if isinstance(cause, OSError) and cause.errno is not None else 5
        raise OSError(number, f"rank {rank} can't write its rows to {folder}: {cause}") from cause


def read_rows(folder: Path, rows: dict[str, Tensor]) -> None:
    """Reads tensors in place: whole tensors, or the rows of a ``DTensor`` that this process holds.

    Args:
        folder: A folder that `write_rows` wrote, with any number of processes.
        rows: The tensors by name.

    Raises:
        StorageError: If a file is missing or damaged, or a tensor has another shape.
    """
    if not rows:
        return
    try:
        with warnings.catch_warnings():
            # PyTorch warns that each process reads by itself.
            warnings.simplefilter("ignore")
            load(rows, storage_reader=_Reader(folder), no_dist=True)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise StorageError(f"{folder} doesn't contain the rows of a checkpoint: {cause}.") from cause
    except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise StorageError(f"{folder} doesn't contain the rows of a checkpoint: {error}.") from error


def verify_rows(folder: Path) -> None:
    """Raises `StorageError` if a file of a folder that `write_rows` wrote is missing or too short."""
    try:
        stored = _Reader(folder).read_metadata().storage_data
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ValueError) as error:
        raise StorageError(f"{folder} doesn't contain the rows of a checkpoint: {error}.") from error
    sizes: dict[str, int] = {}
    for info in stored.values():
        sizes[info.relative_path] = max(sizes.get(info.relative_path, 0), info.offset + info.length)
    for name, size in sizes.items():
        file = folder / name
        if Path(name).name != name or not file.is_file() or file.stat().st_size < size:
            raise StorageError(f"{folder} must contain the file {name} with at least {size:,} bytes.")


class _Reader(FileSystemReader):
    """A reader that creates no other objects than those of a description of tensors."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        with (Path(self.path) / METADATA).open("rb") as file:
            metadata = _Unpickler(file).load()
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"):
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        if (module, name) in (("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath")):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which isn't a part of a description of tensors")
