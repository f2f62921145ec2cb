"""The description of a store of activations, as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sparsedict.batches import ROLES, point_name
from sparsedict.data._columns import PER_TOKEN, STORED_DTYPES, Column, columns_of, decoded_dtype
from sparsedict.data._shards import BLOCK, shard_name
from sparsedict.storage import (
    Reader,
    StorageError,
    format_version,
    installed_version,
    read_json,
    regular_file,
    replace_file,
)

FILE = "activations.json"
FORMAT = "sparsedict activations"
FORMAT_VERSION = 2
MAX_BYTES = 64 * 2**20
SHARD_BYTES = 2**28
_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in STORED_DTYPES}


def tokens_per_shard(activations: Sequence[tuple[str, int]], dtype: torch.dtype) -> int:
    """Returns the number of tokens whose activations take about 256 MiB, a multiple of the block size.

    Args:
        activations: Name and width of each stored tensor.
        dtype: Type in which activations are stored.
    """
    bytes_per_token = sum(width for _, width in activations) * dtype.itemsize
    return max(1, SHARD_BYTES // bytes_per_token // BLOCK) * BLOCK


@dataclass(frozen=True)
class StoreDescription:
    """The description of a store.

    Attributes:
        activations: Name and width of each stored tensor of activations. A tensor that several points share is stored
            once.
        sites: Indices of tensors, and metadata, of each site by name. A single site may have an empty name.
        dtype: Type in which activations are stored.
        n_tokens: Total number of tokens, as planned until the store is complete.
        tokens_per_shard: Number of tokens in every shard except the last.
        origin: Description of the tokens.
        made_by: Settings that determine the activations. They must be the same to continue writing.
        shards: Digests of the shards of a complete store; ``None`` before.
        library_version: The version that wrote the store.
        format_version: Version of the format. Version 1 has no token ids and positions.
    """

    activations: tuple[tuple[str, int], ...]
    sites: Mapping[str, Mapping[str, Any]]
    dtype: torch.dtype
    n_tokens: int
    tokens_per_shard: int
    origin: str
    made_by: Mapping[str, Any]
    shards: tuple[str, ...] | None = None
    library_version: str = field(default_factory=installed_version)
    format_version: int = FORMAT_VERSION

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of a shard."""
        columns = columns_of(self.activations, self.dtype)
        return columns if self.format_version > 1 else columns[: -len(PER_TOKEN)]

    @property
    def points(self) -> dict[str, int]:
        """The index of the tensor of each point."""
        return {
            point_name(name, role): site[role]
            for name, site in self.sites.items()
            for role in ROLES
            if site[role] is not None
        }

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the tensors of activations."""
        return tuple(width for _, width in self.activations)

    @property
    def n_shards(self) -> int:
        return -(-self.n_tokens // self.tokens_per_shard)

    @property
    def bytes_per_token(self) -> int:
        return sum(column.bytes_per_token for column in self.columns)

    @property
    def buffer_bytes_per_token(self) -> int:
        """Memory of a token in a buffer, in bytes."""
        return sum(column.width * decoded_dtype(column.dtype).itemsize for column in self.columns)

    @property
    def n_bytes(self) -> int:
        """Size of the store on disk in bytes, slightly more than that of its activations."""
        checks = 8 * len(self.columns) * -(-self.n_tokens // BLOCK)
        return self.n_tokens * self.bytes_per_token + checks + 4096 * (self.n_shards + 1)

    def names(self) -> list[str]:
        return [shard_name(index) for index in range(self.n_shards)]

    def write(self, folder: Path) -> None:
        fields = dataclasses.asdict(self)
        document = {
            "format": FORMAT,
            "format_version": fields.pop("format_version"),
            "columns": fields.pop("activations"),
            **fields,
        }
        document["dtype"] = str(self.dtype).removeprefix("torch.")
        text = json.dumps(document, indent=1, allow_nan=False)

        def write(beside: Path) -> None:
            beside.write_text(f"{text}\n", encoding="utf-8")

        replace_file(folder / FILE, write)

    @classmethod
    def read(cls, folder: Path) -> StoreDescription | None:
        """Reads the description of a store; returns ``None`` if there is none.

        Raises:
            StorageError: If it is damaged or from a newer version.
        """
        file = regular_file(folder, FILE)
        if file is None:
            return None
        document = read_json(file, MAX_BYTES)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise StorageError(f"{file} isn't the description of stored activations: its `format` isn't {FORMAT!r}.")
        read = Reader(document, str(file))
        read.text("format")
        version = format_version(document, FORMAT_VERSION, str(file))
        read.integer("format_version")
        description = cls(
            activations=_activations(read),
            sites=read.mapping("sites"),
            dtype=_dtype(read),
            n_tokens=_positive(read, "n_tokens"),
            tokens_per_shard=_positive(read, "tokens_per_shard"),
            origin=read.text("origin"),
            made_by=read.mapping("made_by"),
            shards=_shards(read),
            library_version=read.text("library_version"),
            format_version=version,
        )
        read.finish()
        _check_sites(description, read)
        if description.shards is not None and len(description.shards) != description.n_shards:
            raise StorageError(
                f"{file}: `shards` must have {description.n_shards} digests, got {len(description.shards)}."
            )
        return description


def _activations(read: Reader) -> tuple[tuple[str, int], ...]:
    columns = []
    for column in read.rows("columns"):
        fine = isinstance(column, list) and len(column) == 2 and isinstance(column[0], str)
        if not fine or type(column[1]) is not int or not 0 < column[1] < 2**31:
            raise StorageError(
                f"{read.source}: `columns` must be pairs of a name and a width, got {str(column)[:80]!r}."
            )
        columns.append((column[0], column[1]))
    if not columns or len(dict(columns)) < len(columns):
        raise StorageError(f"{read.source}: `columns` must have at least one column, and distinct names.")
    return tuple(columns)


def _dtype(read: Reader) -> torch.dtype:
    name = read.text("dtype")
    if name not in _NAMES:
        raise StorageError(f"{read.source}: `dtype` must be one of {', '.join(_NAMES)}, got {name[:80]!r}.")
    return _NAMES[name]


def _positive(read: Reader, key: str) -> int:
    value = read.integer(key)
    if not 0 < value < 2**62:
        raise StorageError(f"{read.source}: `{key}` must be at least 1, got {value}.")
    return value


def _shards(read: Reader) -> tuple[str, ...] | None:
    value = read.value("shards")
    if value is not None and not (isinstance(value, list) and all(isinstance(digest, str) for digest in value)):
        raise StorageError(f"{read.source}: `shards` must be a list of digests, or null.")
    return None if value is None else tuple(value)


def _check_sites(description: StoreDescription, read: Reader) -> None:
    sites, n_columns = description.sites, len(description.activations)
    if not sites or ("" in sites and len(sites) > 1):
        raise StorageError(f"{read.source}: `sites` must have a single site without a name, or sites with names.")
    for name, site in sites.items():
        roles = ("inputs", "outputs", "neurons")
        places = [site.get(role, -1) for role in roles] if isinstance(site, dict) else []
        if not places or not all(
            (type(p) is int and 0 <= p < n_columns) or (p is None and i == 2) for i, p in enumerate(places)
        ):
            raise StorageError(
                f"{read.source}: `sites`, `{name[:80]}` must name columns of inputs, outputs and neurons."
            )
