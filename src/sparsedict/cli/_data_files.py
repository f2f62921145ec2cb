"""Reading of files of texts and tokens for `sparsedict.data`."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsedict.cli._errors import OptionError

END = "<|endoftext|>"
PLAIN = (".txt", ".text", ".md", "")
LINES = (".jsonl", ".ndjson")
TABLES = (".parquet", ".arrow")
TOKENS = (".npy", ".npz", ".pt", ".pth", ".safetensors")
SUFFIXES = (*PLAIN[:-1], *LINES, ".json", ".csv", ".tsv", *TABLES, *TOKENS)
ID_COLUMNS = ("input_ids", "tokens", "ids")
MAX_SHOWN = 200
"""Largest number of characters of a row in an error message."""


def suffix(file: Path) -> str:
    """Returns the suffix of a file name, ignoring a final ``.gz``."""
    return (Path(file.stem) if file.suffix == ".gz" else file).suffix.lower()


def read_files(files: list[Path], column: str | None) -> Any:
    """Returns the contents of files of one kind: token ids, or an iterable of texts or rows.

    Args:
        files: The files, in order.
        column: Column, field or tensor to read.

    Raises:
        ValueError: If a file can't be read, or the files are of different kinds.
    """
    kinds = {suffix(file) for file in files}
    if len({_reader(kind) for kind in kinds}) > 1:
        raise OptionError(f"--data must be files of one kind, got {', '.join(sorted(map(repr, kinds)))}.")
    kind = kinds.pop()
    if kind in TABLES:
        return _table(files, kind)
    if kind in TOKENS:
        parts = [_read_or_explain(file, lambda file=file: _ids(file, column)) for file in files]
        return parts[0] if len(parts) == 1 else _concatenate(parts)
    parts = [_read_or_explain(file, lambda file=file: _reader(suffix(file))(file, column)) for file in files]
    return parts[0] if len(parts) == 1 else chain.from_iterable(parts)


def _reader(kind: str) -> Callable[[Path, str | None], Any]:
    if kind in PLAIN:
        return _documents
    if kind in LINES:
        return _json_lines
    if kind == ".json":
        return _json
    if kind in (".csv", ".tsv"):
        return _csv
    return _ids if kind in TOKENS else _parquet


def _read_or_explain(file: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (ImportError, OptionError):
        raise
    # The exception for a broken file depends on the format.
    except Exception as error:
        raise OptionError(f"--data {str(file)!r} can't be read: {type(error).__name__}: {error}") from error


def _open(file: Path) -> Any:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8", errors="replace", newline="")
    return file.open(encoding="utf-8", errors="replace", newline="")


def _documents(file: Path, column: str | None) -> list[str]:
    """Splits a text into documents at end-of-text markers, as in the text files of TinyStories."""
    with _open(file) as stream:
        texts = stream.read().replace("\r\n", "\n").split(END)
    return [text for text in texts if text.strip()]


def _json_lines(file: Path, column: str | None) -> Iterator[Any]:
    with _open(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise OptionError(f"--data {str(file)!r}, line {number}, must be JSON, got {line[:40]!r}.") from error
            if not _is_item(row, column):
                field = column or "text"
                raise OptionError(
                    f"--data {str(file)!r}, line {number}, must be a JSON object with the field {field!r} (see "
                    f"--column), a text or a list of token ids, got {_held(row, field)}."
                )
            yield row


def has_bare_rows(file: Path) -> bool:
    """Returns whether the lines of a file are texts or lists without fields, which the datasets library can't read."""
    with _open(file) as lines:
        first = next((line.lstrip() for line in lines if line.strip()), "")
    return first[:1] in ("[", '"')


def _is_item(row: Any, column: str | None) -> bool:
    """Returns whether a row is a text, a list of token ids, or an object that has one of them."""
    if isinstance(row, Mapping):
        found = column or next((name for name in ("input_ids", "text") if name in row), "text")
        return row.get(found) is not None
    return isinstance(row, str) or (isinstance(row, list) and all(type(item) is int for item in row))


def _held(row: Any, field: str) -> str:
    """Returns a description of a row that lacks a field, for an error message."""
    if not isinstance(row, Mapping):
        return repr(row)[:MAX_SHOWN]
    if field in row:
        return "null there"
    return f"the fields {', '.join(map(repr, row))}"[:MAX_SHOWN] if row else "an empty object"


def _json(file: Path, column: str | None) -> Any:
    with _open(file) as stream:
        text = stream.read()
    try:
        found = json.loads(text)
    except ValueError:
        # Many files with this suffix contain JSON lines.
        return list(_json_lines(file, column))
    while isinstance(found, Mapping) and len(found) == 1 and isinstance(next(iter(found.values())), list):
        (name, inner) = next(iter(found.items()))
        if name in (column, "text", *ID_COLUMNS):
            break
        found = inner
    if isinstance(found, Mapping) and found and all(isinstance(value, Mapping) for value in found.values()):
        found = _table_of(found, column)
    if not isinstance(found, list | Mapping):
        raise OptionError(f"--data {str(file)!r} must be a JSON list, or an object of columns, got {text[:40]!r}.")
    return found


def _table_of(found: Mapping[str, Any], column: str | None) -> Any:
    """Returns the columns or the rows of a table that pandas wrote with its index, as ``to_json()`` does."""
    if any(name in found for name in (column, "text", "input_ids")):
        return {name: [*values.values()] for name, values in found.items()}
    return [*found.values()]


def _csv(file: Path, column: str | None) -> Iterator[dict[str, str]]:
    csv.field_size_limit(sys.maxsize)
    with _open(file) as stream:
        rows = csv.DictReader(stream, delimiter="\t" if suffix(file) == ".tsv" else ",")
        wanted = column or "text"
        if wanted not in (rows.fieldnames or ()):
            raise OptionError(
                f"--column must be one of {', '.join(rows.fieldnames or ()) or 'no columns'} in {str(file)!r}, "
                f"got {wanted!r}."
            )
        for row in rows:
            if row[wanted] is None:
                raise OptionError(f"--data {str(file)!r}, line {rows.line_num}, must have the column {wanted!r}.")
            yield row


def _parquet(file: Path, column: str | None) -> Any:
    return _table([file], suffix(file))


def _table(files: list[Path], kind: str) -> Any:
    datasets = needs_datasets()
    paths = [str(file) for file in files]
    if kind == ".arrow":
        return _read_or_explain(
            files[0], lambda: datasets.concatenate_datasets([*map(datasets.Dataset.from_file, paths)])
        )
    from pyarrow import parquet

    for file in files:
        _read_or_explain(file, lambda file=file: parquet.read_schema(file))
    return datasets.load_dataset("parquet", data_files=paths, split="train", streaming=True)


def needs_datasets() -> Any:
    """Returns the module of the datasets library.

    Raises:
        ImportError: If it isn't installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "Datasets and parquet files need the package datasets: pip install 'sparsedict[hf]'."
        ) from error
    return datasets


def _ids(file: Path, column: str | None) -> Any:
    """Returns the array of token ids in a file, or a mapping of the ids and their mask."""
    kind = suffix(file)
    if kind in (".npy", ".npz"):
        found: Any = _numpy(file)
    elif kind == ".safetensors":
        from safetensors.torch import load_file

        found = load_file(file)
    else:
        found = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(found, Mapping):
        return found
    names = [column] if column else [name for name in ID_COLUMNS if name in found] or list(found)
    if len(names) != 1 or names[0] not in found:
        raise OptionError(f"--column must be one of {', '.join(map(str, found))} in {str(file)!r}, got {column!r}.")
    return {column or "input_ids": found[names[0]], "attention_mask": found.get("attention_mask")}


def _numpy(file: Path) -> Any:
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
        return dict(found) if suffix(file) == ".npz" else found
    except ValueError as error:
        if not any(words in str(error) for words in ("Python objects", "Object arrays")):
            raise
        raise OptionError(
            f"--data {str(file)!r} must contain integers, got Python objects. Write rows of different lengths to a "
            ".jsonl file, with one list of ids per line."
        ) from error


def _concatenate(parts: list[Any]) -> Any:
    arrays = [next(iter(part.values())) if isinstance(part, Mapping) else part for part in parts]
    if len({(np.ndim(array), np.shape(array)[1:]) for array in arrays}) > 1:
        raise OptionError(
            f"--data must be arrays of the same width, got {sorted({np.shape(array)[1:] for array in arrays})}."
        )
    return torch.cat([torch.as_tensor(np.asarray(array).astype(np.int64), device="cpu") for array in arrays])
