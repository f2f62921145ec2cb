"""`read_records`, the records of latents that were saved with their pages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sparsedict import checks
from sparsedict.analysis import LatentRecords
from sparsedict.storage import read_document, write_document

RECORDS = "records"
FORMAT = "sparsedict-page-records"
_NAMES = "names.json"


def save_records(folder: Path, records: Mapping[str, LatentRecords]) -> None:
    """Saves the records of several dictionaries in a folder of pages."""
    (folder / RECORDS).mkdir()
    for index, own in enumerate(records.values()):
        own.save(folder / RECORDS / str(index))
    write_document(folder / RECORDS / _NAMES, FORMAT, {"names": list(records)})


def read_records(path: str | os.PathLike[str]) -> dict[str, LatentRecords]:
    """Reads the records that `write` saved with the pages.

    Args:
        path: The folder of the pages.

    Returns:
        The records by name of the dictionary.

    Raises:
        FileNotFoundError: If there are no pages, or they were written without records.
        StorageError: If a file is damaged.
    """
    folder = checks.path("path", path, "a folder") / RECORDS
    if not (folder / _NAMES).is_file():
        raise FileNotFoundError(f"`path` must be a folder of pages with records, but {path} has none.")
    names = read_document(folder / _NAMES, FORMAT).rows("names")
    return {str(name): LatentRecords.load(folder / str(index)) for index, name in enumerate(names)}
