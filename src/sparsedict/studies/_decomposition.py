"""`Decomposition`, the result of `decompose`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from typing import Any

from sparsedict.studies._dictionary_result import DictionaryResult
from sparsedict.studies._study_result import StudyResult


@dataclass(frozen=True, eq=False, repr=False)
class Decomposition(StudyResult):
    """The result of `decompose`.

    Attributes:
        results: Results of the dictionaries by kind, such as ``"distiller"`` and ``"autoencoder"``.
        settings: All settings of the run, including defaults.
        seconds: Duration of each phase.
        latents: Facts about all latents and neurons, for their pages, by name of the dictionary.
        note: Reason why the neurons of the MLP are unknown, or ``None``.
    """

    results: Mapping[str, DictionaryResult]
    note: str | None = None

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

    def rows(self) -> dict[str, dict[str, str]]:
        """Returns the content of each table cell by dictionary and column."""
        return {name: dict(result.cells()) for name, result in self.results.items()}

    def to_dict(self) -> dict[str, Any]:
        """Returns all numbers and settings for JSON."""
        return {**super().to_dict(), "note": self.note}

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
