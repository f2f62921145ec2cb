"""`Decomposition`, the result of `decompose`."""

from __future__ import annotations

import html
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

from sparsedict import checks
from sparsedict.display import Displayed, aligned, finite, table
from sparsedict.pages import DictionaryFacts, TokenStrings
from sparsedict.studies._dictionary_result import SECONDS, DictionaryResult
from sparsedict.studies._folder import staged_result
from sparsedict.studies._report import write_report

COLUMNS = ("FVU", "L0", "recovered (zero)", "recovered (mean)", "KL", "never fired", "simulators", SECONDS)
WIDTH = 100
"""Number of characters in a line of text."""


@dataclass(frozen=True, eq=False, repr=False)
class Decomposition(Displayed):
    """The result of `decompose`.

    Attributes:
        results: Results of the dictionaries by kind, such as ``"distiller"`` and ``"autoencoder"``.
        settings: All settings of the run, including defaults.
        seconds: Duration of each phase.
        note: Reason why the neurons of the MLP are unknown, or ``None``.
        latents: Facts about all latents and neurons, for their pages, by name of the dictionary.
    """

    results: Mapping[str, DictionaryResult]
    settings: Mapping[str, Any]
    seconds: Mapping[str, float]
    note: str | None = None
    latents: Mapping[str, DictionaryFacts] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """The site and the model, for titles."""
        return f"{self.settings['site']} of {self.settings['model']}"

    @property
    def lead(self) -> str:
        """The first sentence of the page."""
        settings = self.settings
        n_latents, n_tokens = settings["n_latents"], settings["n_tokens_trained"]
        return f"Dictionaries with {n_latents:,} latents each, trained on {n_tokens:,} tokens."

    def table(self) -> str:
        """Returns a table with a row for each dictionary."""
        return aligned({name: result.cells() for name, result in self.results.items()}, COLUMNS)

    def _repr_html_(self) -> str:
        rows = [(name, *result.cells().values()) for name, result in self.results.items()]
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes())
        return table(self.subject, rows, ("", *COLUMNS)) + notes

    def __str__(self) -> str:
        notes = [textwrap.fill(note, WIDTH) for note in self.notes()]
        return "\n".join([self.table(), "", *notes])

    def to_dict(self) -> dict[str, Any]:
        """Returns all numbers and settings for JSON."""
        return {
            "settings": finite(self.settings),
            "results": {name: result.to_dict() for name, result in self.results.items()},
            "seconds": finite(self.seconds),
            "note": self.note,
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

    def notes(self) -> list[str]:
        """Returns explanations of the table columns, with the numbers of tokens."""
        first = next(iter(self.results.values()))
        losses, inspection = first.evaluation.losses, self.settings["inspection"]
        lines = [
            "FVU: fraction of the output's variance that is unexplained. L0: mean number of active latents per token. "
            f"Both and the losses are measured on {first.evaluation.n_tokens:,} held-out tokens."
        ]
        if losses is None or isnan(losses.base):
            lines.append(f"No losses: {first.evaluation.note}")
        else:
            lines.append(
                f"The loss of the model is {losses.base:.4f} nats per token, {losses.zero_ablated:.4f} with zero "
                f"ablation of this MLP and {losses.mean_ablated:.4f} with mean ablation. Recovered: loss recovered "
                "relative to these ablations."
            )
            reasons = (result.evaluation.note for result in self.results.values())
            lines += dict.fromkeys(reason for reason in reasons if reason is not None)
        n_latents, n_tokens = self.settings["n_latents"], first.firing.n_tokens
        lines.append(
            f"Never fired: those of the {n_latents:,} latents that are zero on all {n_tokens:,} held-out tokens."
        )
        if self.note is None:
            lines.append(
                f"Simulators: other latents with a decoder cosine above {inspection['threshold']} with a neuron of the "
                "MLP."
            )
        else:
            lines.append(f"Simulators are unknown: {self.note}")
        if len(self.results) > 1:
            lines.append("Seconds: duration of the training of all dictionaries in one pass.")
        return lines
