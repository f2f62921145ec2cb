"""Writes the rows of a stream to a store. An interrupted write can be continued."""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsedict.batches import Activations
from sparsedict.data._batches import Batches
from sparsedict.data._columns import PER_TOKEN, encoded
from sparsedict.data._row_source import RowSource
from sparsedict.data._shards import ShardHeader, read_header, shard_name, write_shard
from sparsedict.data._store_description import FILE, StoreDescription
from sparsedict.progress import progress_bar
from sparsedict.storage import StorageError, release_lock, take_lock

LOCK = ".lock"
SAME = ("activations", "dtype", "tokens_per_shard")
"""Attributes of a description that must be the same to continue writing."""


def write_store(folder: Path, description: StoreDescription, rows: RowSource, seed: int, progress: bool) -> None:
    """Writes the missing shards of a store, and then marks it as complete.

    Args:
        folder: Folder of the store. It is created if necessary. If it has a part of the same store, writing continues.
        description: Description of the store.
        rows: Source of the rows, in the order of writing.
        seed: Seed of this order.
        progress: Whether to print the size and show a progress bar.

    Raises:
        ValueError: If the folder has other activations.
        NotADirectoryError: If ``folder`` is a file.
        BlockingIOError: If another process writes into the folder.
        OSError: If the disk has too little space. Nothing is written then.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"`folder` must be a folder, but {folder} is a file.")
    description, shards, is_complete = _opened(folder, description)
    if is_complete:
        return
    _check_room(folder, description, _n_rows(shards))
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        # Read again, since another process may have written in the meantime.
        description, shards, is_complete = _opened(folder, description)
        if not is_complete:
            _write_missing(folder, description, shards, rows, seed, progress)


def _opened(folder: Path, wanted: StoreDescription) -> tuple[StoreDescription, list[ShardHeader | None], bool]:
    """Returns the description to use, the existing shards, and whether the store is complete."""
    found = StoreDescription.read(folder) if folder.is_dir() else None
    if found is not None:
        wanted = replace(wanted, format_version=found.format_version)
        _check_same(folder, found, wanted)
        if found.shards is not None:
            wanted = replace(wanted, n_tokens=found.n_tokens)
    shards = _existing(folder, found, wanted)
    return wanted, shards, found is not None and found.shards is not None and None not in shards


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Context that locks a folder against writing by other processes.

    Raises:
        BlockingIOError: If another process holds the lock.
    """
    lock = take_lock(folder / LOCK)
    if lock is None:
        raise BlockingIOError(
            f"`folder` must be written by one process at a time, but another process writes into {folder}. Wait for it "
            "and repeat the call, or use another folder."
        )
    try:
        yield
    finally:
        release_lock(lock)


def _n_rows(shards: Sequence[ShardHeader | None]) -> int:
    return sum(shard.n_rows for shard in shards if shard is not None)


def _write_missing(
    folder: Path,
    description: StoreDescription,
    shards: list[ShardHeader | None],
    rows: RowSource,
    seed: int,
    progress: bool,
) -> None:
    n_done = _n_rows(shards)
    description.write(folder)
    if progress:
        size = f"{description.n_tokens:,} tokens, {description.n_bytes / 2**30:,.3f} GiB"
        print(f"{folder}: {size} in {description.n_shards:,} shards; {n_done:,} tokens are there already")
    with progress_bar("store", total=description.n_tokens, initial=n_done, shown=progress) as bar:
        for index, batch, state in _missing(shards, description, rows, seed):
            left = description.n_tokens - index * description.tokens_per_shard
            columns = encoded(_values(batch.rows(slice(0, left)), description), description.columns)
            names = [column.name for column in description.columns]
            name = shard_name(index)
            write_shard(folder / name, names, columns, {"index": index, "state": state})
            shards[index] = read_header(folder, name, description.columns)
            bar.update(len(columns[0]))
    whole = list(takewhile(lambda shard: shard is not None, shards))
    digests = tuple(shard.digest for shard in whole if shard)
    replace(description, n_tokens=_n_rows(whole), shards=digests).write(folder)


def _missing(
    shards: Sequence[ShardHeader | None], description: StoreDescription, rows: RowSource, seed: int
) -> Iterator[tuple[int, Activations, dict[str, Any]]]:
    """Yields the content of the missing shards, each with its index and the state of the stream after it.

    If there is a shard before a missing one, the stream resumes from the state that is stored in that shard.
    """
    batches: Batches | None = None
    for index, shard in enumerate(shards):
        if shard is not None:
            batches = None
            continue
        if batches is None:
            batches = Batches(rows, batch_size=description.tokens_per_shard, seed=seed, repeat=False)
            before = shards[index - 1] if index else None
            if before is not None:
                batches.load_state_dict(before.notes["state"])
        batch = next(batches, None)
        if batch is None:
            return  # there were fewer tokens than planned
        yield index, batch, batches.state_dict()


def _values(batch: Activations, description: StoreDescription) -> dict[str, Tensor]:
    """Returns the activations, token ids and positions of a batch by the name of their column."""
    names = [name for name, _ in description.activations]
    values = {names[index]: batch[point] for point, index in description.points.items()}
    return values | {name: getattr(batch, name) for name in PER_TOKEN}


def _existing(folder: Path, found: StoreDescription | None, wanted: StoreDescription) -> list[ShardHeader | None]:
    """Returns the existing shards, and ``None`` for each that is missing or incomplete."""
    if found is None:
        return [None] * wanted.n_shards
    shards: list[ShardHeader | None] = []
    for index, name in enumerate(wanted.names()):
        n_rows = min(wanted.tokens_per_shard, wanted.n_tokens - index * wanted.tokens_per_shard)
        try:
            header = read_header(folder, name, wanted.columns)
        except StorageError:
            shards.append(None)
            continue
        is_it = header.n_rows == n_rows and header.notes.get("index") == index and "state" in header.notes
        is_named = found.shards is None or header.digest == found.shards[index]
        shards.append(header if is_it and is_named else None)
    return shards


def _check_same(folder: Path, found: StoreDescription, wanted: StoreDescription) -> None:
    pairs = [(name, getattr(found, name), getattr(wanted, name)) for name in SAME]
    pairs.append(("sites", _plain(found.sites), _plain(wanted.sites)))
    pairs += [(name, found.made_by.get(name), wanted.made_by.get(name)) for name in {**wanted.made_by, **found.made_by}]
    for name, theirs, ours in pairs:
        if not _equal(theirs, ours):
            raise ValueError(
                "`folder` must be empty or contain a part of the same activations, but "
                f"{folder / FILE} has `{name}` {str(theirs)[:200]} instead of {str(ours)[:200]}. "
                "Use another folder, or delete this one."
            )


def _plain(sites: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: dict(site) for name, site in sites.items()}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    # Writing may continue on another machine, whose floating-point products may differ slightly.
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-2)
    return a == b


def _check_room(folder: Path, description: StoreDescription, n_done: int) -> None:
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    needed = description.n_bytes - n_done * description.bytes_per_token
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"The store needs {needed / 2**30:,.2f} GiB more, but the disk has only {free / 2**30:,.2f} GiB free. "
            "Store fewer tokens (`n_tokens`), or use bfloat16 or int8 (`dtype`).",
            str(folder),
        )
