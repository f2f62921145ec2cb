"""Copies or saves the figures of a model card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class SavableFigure(Protocol):
    """Interface of figures with a method to save them, such as matplotlib's."""

    def savefig(self, fname: Any, /) -> Any: ...


def save_figures(folder: Path, figures: Mapping[str, str | os.PathLike[str] | SavableFigure]) -> dict[str, str]:
    """Writes figures to ``figures/`` in a folder, and returns their relative paths by caption.

    Raises:
        FileNotFoundError: If a file doesn't exist.
        TypeError: If a value is neither a file nor a figure.
    """
    written: dict[str, str] = {}
    for index, (caption, figure) in enumerate(figures.items()):
        ending = Path(figure).suffix if isinstance(figure, str | os.PathLike) else ".png"
        name = f"figures/{index}{ending}"
        (folder / "figures").mkdir(exist_ok=True)
        if isinstance(figure, str | os.PathLike):
            shutil.copyfile(figure, folder / name)
        elif isinstance(figure, SavableFigure):
            figure.savefig(folder / name)
        else:
            raise TypeError(
                f"`figures[{caption!r}]` must be a file or a matplotlib figure, got {type(figure).__name__}."
            )
        written[caption] = name
    return written
