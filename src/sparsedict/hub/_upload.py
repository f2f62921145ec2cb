"""One dictionary and its model card, uploaded in one commit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

from sparsedict.hub._address import HubAddress
from sparsedict.hub._card import card
from sparsedict.hub._figures import Drawn, put_figures
from sparsedict.hub._push import push
from sparsedict.storage import Description


@runtime_checkable
class HasNumbers(Protocol):
    """Results that give their numbers by name, such as those of ``sd.evaluate``."""

    def to_dict(self) -> dict[str, Any]: ...


def upload(
    save: Callable[[Path], None],
    description: Description,
    repository: str,
    *,
    metrics: Mapping[str, Any] | HasNumbers | None = None,
    figures: Mapping[str, str | os.PathLike[str] | Drawn] | None = None,
    license: str | None = None,
    private: bool = False,
    message: str | None = None,
) -> str:
    """Saves a dictionary to a temporary folder, adds its model card and figures, and uploads them.

    Args:
        save: Writes the dictionary's files into a folder.
        description: Of the dictionary, for the card.
        repository: See `sparsedict.Dictionary.push_to_hub`, also for the other arguments.
        metrics: Numbers for the card.
        figures: Figures for the card, by their captions.
        license: Its identifier on the hub.
        private: Whether a new repository is private.
        message: Of the commit.

    Returns:
        The commit's page.
    """
    HubAddress.from_string(repository)  # before anything is written
    numbers = metrics.to_dict() if isinstance(metrics, HasNumbers) else metrics
    with TemporaryDirectory() as folder:
        save(Path(folder))
        drawn = put_figures(Path(folder), figures or {})
        readme = card(description, repository, metrics=numbers, figures=drawn, license=license)
        return push(folder, repository, readme=readme, private=private, message=message)
