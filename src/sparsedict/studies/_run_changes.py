"""Comparison of the options of a run with those of an earlier run in the same folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def changes(run: Mapping[str, Any], options: Mapping[str, Any], folder: Path) -> list[str]:
    """Returns the options that differ from those of an earlier run, with both values.

    Args:
        run: The earlier run, as in its ``run.json``.
        options: The options of this run.
        folder: The folder of the run.
    """
    before = run.get("options")
    before = before if isinstance(before, dict) else {}
    recorded = run.get("working_directory")
    is_known = isinstance(recorded, str)
    # Earlier versions didn't record the folder of relative paths.
    folders = [recorded] if is_known else [os.curdir, str(folder.absolute().parent)]
    names = list(dict.fromkeys((*before, *options)))
    if {"command"} <= before.keys() & options.keys() and before["command"] != options["command"]:
        names = ["command"]  # other commands have other options
    return [
        f"{name} was {_shown(before.get(name))} and is {_shown(options.get(name))}"
        for name in names
        if not _same(before.get(name), options.get(name), folders, is_known=is_known)
    ]


def _same(before: Any, now: Any, folders: Sequence[str], *, is_known: bool) -> bool:
    """Returns whether two values of an option are equal, or paths of the same file or folder.

    Args:
        before: The value of the earlier run.
        now: The value of this run.
        folders: Folders in which the earlier value may be, if it is a relative path.
        is_known: Whether the folder of relative paths was recorded. Then a relative and an absolute path differ,
            because the former may be a name on the hub.
    """
    if before == now:
        return True
    if not (isinstance(before, str) and isinstance(now, str)):
        return False
    if is_known and os.path.isabs(now) and not os.path.isabs(before):
        return False
    return os.path.realpath(now) in {os.path.realpath(os.path.join(folder, before)) for folder in folders}


def _shown(value: Any) -> str:
    return "not given" if value is None else repr(value)
