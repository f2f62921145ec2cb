"""Reading of `run.json`, the file with the options of a run, and the places of the model and the data in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsedict import checks
from sparsedict.cli._data_name import absolute_name, absolute_path
from sparsedict.storage import StorageError, read_json
from sparsedict.studies import RunFolder

FILE = "run.json"
DATA = ("--data", "--held-out")
PLACES = ("MODEL", *DATA, "--vocabulary")
"""Options with names of local files and folders, or with names on the hub."""


def absolute_options(options: Mapping[str, Any], folder: Path = Path()) -> dict[str, Any]:
    """Returns options with the absolute paths of local files and folders. Other names, as on the hub, are unchanged.

    Args:
        options: The options by name.
        folder: The folder of relative paths. By default the current one.
    """
    return {**options, **{name: _absolute(name, text, folder) or text for name, text in _places(options)}}


def run_options(folder: Path) -> dict[str, Any]:
    """Returns the options of the command that wrote a folder, with absolute paths.

    Raises:
        FileNotFoundError: If the folder contains no finished run.
    """
    run = _run(folder)
    options = run["options"]
    if not _has_relative_paths(run):
        return options
    for place in _tried(folder):
        options = absolute_options(options, place)
    return options


@contextmanager
def places_of_run(folder: Path) -> Iterator[None]:
    """Returns a context that loads the model and the data of a run, and names the paths that were tried in errors.

    Raises:
        FileNotFoundError: If a file or folder of the run doesn't exist.
        ValueError: If the run has a name on the hub that is also the name of a file or folder here.
    """
    run, file = _run(folder), folder / FILE
    missing = []
    for option, text in _places(run["options"]):
        if _has_relative_paths(run) and not os.path.isabs(text):
            found = dict.fromkeys(path for place in _tried(folder) if (path := _absolute(option, text, place)))
            _warn_of_two(option, text, list(found), file)
            missing += [] if found or _is_share(option, text) else [(option, text)]
        elif os.path.isabs(text) and _absolute(option, text, Path()) is None:
            raise FileNotFoundError(
                f"RUN must be a run whose model and data are still in the same place, but its {option} {text!r} "
                f"doesn't exist. Move it back, or change the path in {str(file)!r}."
            )
        elif not os.path.isabs(text) and _absolute(option, text, Path()) is not None:
            raise ValueError(
                f"RUN has the {option} {text!r} of the hub, but this folder has a file or folder with that name. Run "
                "the command in another folder."
            )
    try:
        yield
    except FileNotFoundError as error:
        if not missing:
            raise
        names = " and ".join(f"{option} {text!r}" for option, text in missing)
        tried = " and ".join(str(absolute_path(place)) for place in _tried(folder))
        raise FileNotFoundError(
            f"RUN must be a run whose model and data can be found, but {str(file)!r} has the relative path {names}, "
            f"which exists neither in the current folder nor beside RUN (tried in {tried}). Run the command in the "
            f"folder in which the run was trained, or write the absolute path to the file. The error was: {error}"
        ) from error


def _run(folder: Path) -> dict[str, Any]:
    try:
        run = read_json(folder / FILE)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            "RUN must be the folder of a finished run of `sparsedict demo` or `sparsedict train`, but "
            f"{str(folder)!r} has {_content(folder)}."
        ) from None
    options = run.get("options") if isinstance(run, dict) else None
    if not isinstance(options, dict) or options.get("command") not in ("demo", "train"):
        raise StorageError(f"{folder / FILE} must contain the options of a run.")
    return run


def _content(folder: Path) -> str:
    """Returns the content of a folder without a finished run, and the remedy."""
    unfinished = RunFolder(folder, {})
    remedies = []
    if unfinished.was_started:
        remedies.append("To finish it, repeat its command with --resume")
    if (unfinished.earlier / FILE).is_file():
        remedies.append(f"The earlier result is in {str(unfinished.earlier)!r}")
    return ". ".join(["an unfinished run", *remedies]) if remedies else f"no {FILE}"


def _places(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, options[name]) for name in PLACES if isinstance(options.get(name), str)]


def _absolute(option: str, text: str, folder: Path) -> str | None:
    """Returns the absolute path of a file or folder in a folder, or None if it doesn't exist."""
    if _is_share(option, text):
        return None
    if option in DATA:
        return absolute_name(text, folder)
    path = folder / Path(text).expanduser()
    return str(absolute_path(path)) if text.strip() and path.exists() else None


def _is_share(option: str, text: str) -> bool:
    """Returns whether the value of ``--held-out`` is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return option == "--held-out"


def _has_relative_paths(run: Mapping[str, Any]) -> bool:
    """Returns whether a run has paths as they were given, as earlier versions wrote them."""
    return "working_directory" not in run


def _tried(folder: Path) -> tuple[Path, Path]:
    """Returns the folders in which relative paths are tried: the current one, and that which contains the run."""
    return Path(), Path(os.path.abspath(folder)).parent


def _warn_of_two(option: str, text: str, found: list[str], file: Path) -> None:
    if len(set(map(os.path.realpath, found))) > 1:
        checks.warn(
            f"{str(file)!r} has the relative path {option} {text!r}. {found[0]!r} is used, but {found[1]!r} exists "
            "too. To use that, write its absolute path to the file."
        )
