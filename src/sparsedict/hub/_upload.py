"""Uploads a dictionary and its model card in one commit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

from sparsedict.hub._address import HubAddress
from sparsedict.hub._card import card
from sparsedict.hub._figures import SavableFigure, save_figures
from sparsedict.hub._push import push
from sparsedict.storage import Description


@runtime_checkable
class HasMetrics(Protocol):
    """Interface of results with numbers by name, such as those of ``sd.evaluate``."""

    def to_dict(self) -> dict[str, Any]: ...


def upload(
    save: Callable[[Path], None],
    description: Description,
    repository: str,
    *,
    metrics: Mapping[str, Any] | HasMetrics | None = None,
    figures: Mapping[str, str | os.PathLike[str] | SavableFigure] | None = None,
    license: str | None = None,
    private: bool = False,
    message: str | None = None,
) -> str:
    """Saves a dictionary to a temporary folder, adds its model card and figures, and uploads them.

    Args:
        save: Function that writes the dictionary's files to a folder.
        description: Description of the dictionary, for the card.
        repository: See `sparsedict.Dictionary.push_to_hub`.
        metrics: Numbers for the card.
        figures: Figures for the card by caption.
        license: Identifier of the license on the hub.
        private: Whether a newly created repository is private.
        message: Commit message.

    Returns:
        The address of the commit's page.
    """
    HubAddress.from_string(repository)  # fails before anything is written
    numbers = metrics.to_dict() if isinstance(metrics, HasMetrics) else metrics
    with TemporaryDirectory() as folder:
        save(Path(folder))
        drawn = save_figures(Path(folder), figures or {})
        readme = card(description, repository, metrics=numbers, figures=drawn, license=license)
        return push(folder, repository, readme=readme, private=private, message=message)
