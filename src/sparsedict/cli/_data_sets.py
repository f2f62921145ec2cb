"""Reading of Hugging Face datasets: saved on disk, as folders of files, or on the hub."""

from __future__ import annotations

from collections import Counter
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sparsedict.cli._data_files import LINES, PLAIN, SUFFIXES, TOKENS, has_bare_rows, needs_datasets, read_files, suffix
from sparsedict.cli._data_name import DataName
from sparsedict.cli._errors import OptionError

SPLIT = "train"
NOT_DATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json"}


def read_folder(data: DataName, column: str | None, *, strict: bool = True) -> Any:
    """Returns the contents of a folder: a dataset that ``save_to_disk`` wrote, or files of one kind.

    Args:
        data: Name of the folder.
        column: Column, field or tensor to read.
        strict: Whether a configuration or a split that the data doesn't have is an error.

    Raises:
        FileNotFoundError: If the folder contains no data.
        ValueError: If the folder contains files of several kinds, or lacks the split.
    """
    folder = data.path
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _saved(data, strict=strict)
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and _is_data(file, folder)]
    kinds = Counter(suffix(file) for file in files)
    if not files:
        held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"{data.option} must be a folder with data ({', '.join(SUFFIXES)}), but {data.name!r} contains {held}."
        )
    if len(kinds) > 1 and not set(kinds) <= set(PLAIN):
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        raise OptionError(
            f"{data.option} must be a folder with files of one kind, but {data.name!r} contains {found}. Pass a "
            f"pattern instead, such as '{folder}/*{kinds.most_common(1)[0][0]}'."
        )
    if set(kinds) <= {*PLAIN, *TOKENS, ".arrow"}:
        if strict:
            data.check_no_parts(
                f"a folder of {'/'.join(sorted(kind or 'text' for kind in kinds))} files without splits"
            )
        return read_files(files, column)
    if set(kinds) <= set(LINES) and has_bare_rows(files[0]):
        if strict:
            data.check_no_parts("a folder of files without fields and splits")
        return read_files(files, column)
    return _loaded(data, str(folder))


def read_hub(data: DataName) -> Any:
    """Returns a split of a dataset on the hub, which is streamed.

    Raises:
        FileNotFoundError: If the dataset can't be loaded.
    """
    return _loaded(data, data.name)


def _is_data(file: Path, folder: Path) -> bool:
    """Returns whether a file is a data file, and not a hidden file, a description or a licence."""
    inside = file.relative_to(folder)
    if any(part.startswith(".") for part in inside.parts) or file.name in NOT_DATA:
        return False
    return (
        suffix(file) in SUFFIXES and suffix(file) != ".md" and file.stem.lower() not in ("readme", "license", "licence")
    )


def _saved(data: DataName, *, strict: bool) -> Any:
    datasets = needs_datasets()
    try:
        found = datasets.load_from_disk(data.name if data.path == Path(data.name) else str(data.path))
    except Exception as error:
        raise OptionError(f"{data.option} {data.name!r} can't be read: {type(error).__name__}: {error}") from error
    if strict and not (data.has_parts and data.split is None):
        data.check_no_parts("a folder of save_to_disk without configurations", split=False)
    # Since there are no configurations, the second part of NAME:SPLIT is the split.
    split = data.split or data.config
    if not isinstance(found, dict):
        own = None if found.split is None else str(found.split)
        if strict and own is None:
            data.check_no_parts("a folder of save_to_disk without splits")
        if split is not None and own is not None and split != own:
            raise OptionError(f"--split must be {own!r}, the only split of {data.name!r}, got {split!r}.")
        return found
    split = split or (next(iter(found)) if len(found) == 1 else SPLIT)
    if split not in found:
        near = get_close_matches(split, list(found), 1)
        raise OptionError(
            f"--split must be one of {', '.join(found)} of {data.name!r}, got {split!r}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    return found[split]


def _loaded(data: DataName, where: str) -> Any:
    """Loads a dataset with the datasets library."""
    datasets = needs_datasets()
    options = {} if data.config is None else {"name": data.config}
    try:
        found = datasets.load_dataset(where, split=data.split or SPLIT, streaming=True, **options)
        next(iter(found))
    except StopIteration as error:
        raise OptionError(f"{data.option} must contain at least one row, got none in {data.name!r}.") from error
    # The exception depends on the cause, such as a missing network or split.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if Path(where).is_dir():
            raise OptionError(f"{data.option} {data.name!r} can't be read: {reason}") from error
        raise FileNotFoundError(
            f"{data.option} must be a file, a folder or a dataset on the hub, but there is no file or folder "
            f"{data.name!r}, and its split {data.split or SPLIT!r} couldn't be loaded from the hub ({reason})."
        ) from error
    return found
