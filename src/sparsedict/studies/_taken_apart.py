"""What taking an MLP apart has found."""

from __future__ import annotations

import html
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from sparsedict.display import Displayed, aligned, finite, table
from sparsedict.pages import TokenStrings
from sparsedict.studies._dictionary_result import SECONDS, DictionaryResult
from sparsedict.studies._folder import filled
from sparsedict.studies._report import write_report

COLUMNS = ("FVU", "L0", "recovered (zero)", "recovered (mean)", "KL", "never fired", "simulators", SECONDS)
WIDTH = 100
"""Characters to a line of text."""


@dataclass(frozen=True, eq=False, repr=False)
class TakenApart(Displayed):
    """What `take_apart` found.

    Attributes:
        results: By kind: ``"distiller"``, ``"autoencoder"``.
        settings: All that the run used: none of it a default that is yet to be looked up.
        seconds: Time by phase.
        note: Why the MLP's neurons aren't known, where they aren't.
    """

    results: Mapping[str, DictionaryResult]
    settings: Mapping[str, Any]
    seconds: Mapping[str, float]
    note: str | None = None

    def table(self) -> str:
        """Returns one row for each dictionary, in aligned columns."""
        return aligned({name: result.cells() for name, result in self.results.items()}, COLUMNS)

    def _repr_html_(self) -> str:
        rows = [(name, *result.cells().values()) for name, result in self.results.items()]
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes())
        return table(f"{self.settings['site']} of {self.settings['model']}", rows, ("", *COLUMNS)) + notes

    def __str__(self) -> str:
        notes = [textwrap.fill(note, WIDTH) for note in self.notes()]
        return "\n".join([self.table(), "", *notes])

    def to_dict(self) -> dict[str, Any]:
        """Returns all numbers and all settings, for JSON."""
        return {
            "settings": finite(self.settings),
            "results": {name: result.to_dict() for name, result in self.results.items()},
            "seconds": finite(self.seconds),
            "note": self.note,
        }

    def write(
        self, path: str | os.PathLike[str], *, strings: TokenStrings | None = None, force: bool = False
    ) -> dict[str, Path]:
        """Writes everything to a folder: dictionaries, numbers, figures and pages.

        The new result is whole before an earlier one is touched, and what else lies in the folder stays.

        Args:
            path: The folder; it is made where it doesn't exist.
            strings: From token ids to text, for the examples.
            force: Whether an earlier result may be replaced, and other things may lie in the folder.

        Returns:
            What was written, by what it is.

        Raises:
            FileExistsError: If the folder holds an earlier result or other things and ``force`` isn't set.
            ImportError: If matplotlib isn't installed.
        """
        with filled(Path(path), force=force) as folder:
            files = write_report(self, folder, strings)
        return {what: Path(path) / file for what, file in files.items()}

    def notes(self) -> list[str]:
        """Returns what the table's columns mean, and on how many tokens they were measured."""
        first = next(iter(self.results.values()))
        losses, inspection = first.evaluation.losses, self.settings["inspection"]
        lines = [
            "FVU: share of the output's variance left unexplained; L0: latents active on a token. "
            f"Both, and losses, on {first.evaluation.n_tokens:,} held-out tokens."
        ]
        if losses is None or isnan(losses.base):
            lines.append(f"No losses: {first.evaluation.note}")
        else:
            lines.append(
                f"The model's loss is {losses.base:.4f} nats per token, {losses.zero_ablated:.4f} with this MLP "
                f"zeroed, {losses.mean_ablated:.4f} with its mean: recovered is how much of that gap is closed."
            )
            reasons = (result.evaluation.note for result in self.results.values())
            lines += dict.fromkeys(reason for reason in reasons if reason is not None)
        n_latents, n_tokens = self.settings["n_latents"], first.firing.n_tokens
        lines.append(
            f"Never fired: of {n_latents:,} latents, those that are zero on all of {n_tokens:,} held-out tokens."
        )
        if self.note is None:
            lines.append(
                f"Simulators: of the others, those with a decoder cosine above {inspection['threshold']} with one of "
                "the MLP's neurons."
            )
        else:
            lines.append(f"Simulators are not known: {self.note}")
        if len(self.results) > 1:
            lines.append("Seconds: of training; both were trained in one pass.")
        return lines
