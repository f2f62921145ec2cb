"""`StudyResult`, the base class of the results of studies: their table, JSON and files."""

from __future__ import annotations

import html
import os
import textwrap
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsedict import checks
from sparsedict.display import Displayed, aligned, finite, table
from sparsedict.pages import DictionaryFacts, TokenStrings
from sparsedict.studies._dictionary_result import SECONDS
from sparsedict.studies._folder import staged_result
from sparsedict.studies._report import write_report

COLUMNS = ("FVU", "L0", "recovered (zero)", "recovered (mean)", "KL", "never fired", "simulators", SECONDS)
WIDTH = 100
"""Number of characters in a line of text."""


@dataclass(frozen=True, eq=False, repr=False)
class StudyResult(Displayed):
    """The measurements of trained dictionaries, which can be printed, and written to a folder.

    Attributes:
        results: Results of the dictionaries by kind.
        settings: All settings of the run, including defaults.
        seconds: Duration of each phase.
        latents: Facts about all latents and neurons, for their pages, by name of the dictionary.
    """

    results: Mapping[str, Any]
    settings: Mapping[str, Any]
    seconds: Mapping[str, float]
    latents: Mapping[str, DictionaryFacts] = field(default_factory=dict)

    @property
    @abstractmethod
    def subject(self) -> str:
        """The sites and the model, for titles."""

    @property
    @abstractmethod
    def lead(self) -> str:
        """The first sentence of the page."""

    @abstractmethod
    def rows(self) -> dict[str, dict[str, str]]:
        """Returns the content of each table cell by row and column."""

    @abstractmethod
    def notes(self) -> list[str]:
        """Returns explanations of the table columns, with the numbers of tokens."""

    def table(self) -> str:
        """Returns the table of all rows."""
        return aligned(self.rows(), COLUMNS)

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the rows of the table."""
        return [("", *COLUMNS), *((name, *cells.values()) for name, cells in self.rows().items())]

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes())
        heading, *rows = self.display_rows()
        return table(self.subject, rows, heading) + notes

    def __str__(self) -> str:
        return "\n".join([self.table(), "", *(textwrap.fill(note, WIDTH) for note in self.notes())])

    def to_dict(self) -> dict[str, Any]:
        """Returns all numbers and settings for JSON."""
        return {
            "settings": finite(self.settings),
            "results": {name: result.to_dict() for name, result in self.results.items()},
            "seconds": finite(self.seconds),
        }

    def write(
        self, path: str | os.PathLike[str], *, strings: TokenStrings | None = None, force: bool = False
    ) -> dict[str, Path]:
        """Writes dictionaries, numbers, figures and pages to a folder.

        An earlier result is kept until the new result is complete. Other files in the folder aren't changed.

        Args:
            path: The folder. It is created if it doesn't exist.
            strings: Function from token ids to text, for the examples.
            force: Whether to allow an earlier result, which is then replaced, and other files in the folder.

        Returns:
            The path of each file or subfolder by its kind.

        Raises:
            FileExistsError: If the folder contains an earlier result or other files and ``force`` isn't set.
            ImportError: If matplotlib isn't installed.
        """
        with staged_result(checks.path("path", path, "a folder"), force=force) as folder:
            files = write_report(self, folder, strings)
        return {what: Path(path) / file for what, file in files.items()}
