"""`JointDecomposition`, the result of `decompose_jointly`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sparsedict import figures
from sparsedict.analysis import FiringFrequencies, SitesEvaluation
from sparsedict.dictionaries import Dictionary
from sparsedict.display import Displayed, shown
from sparsedict.studies._dictionary_result import SECONDS, loss_cells, never_fired, result_numbers
from sparsedict.studies._study_result import COLUMNS, StudyResult
from sparsedict.training import History

ALL_AT_ONCE = "all at once"


@dataclass(frozen=True, eq=False, repr=False)
class JointResult(Displayed):
    """A trained dictionary of several sites with its measurements.

    Attributes:
        dictionary: The trained dictionary.
        history: Records of the training.
        evaluation: Evaluation on held-out tokens.
        firing: Firing frequencies on held-out tokens.
    """

    dictionary: Dictionary
    history: History
    evaluation: SitesEvaluation
    firing: FiringFrequencies

    def to_dict(self) -> dict[str, Any]:
        """Returns all numbers for JSON, with lists for the numbers of each latent."""
        return result_numbers(self.evaluation, self.firing, self.history)

    def figures(self, name: str) -> dict[str, tuple[Callable[[], Any], str]]:
        """Returns a function that draws each figure, and its caption, by the name of its file.

        Args:
            name: Name of the dictionary.
        """
        caption = f"Firing frequencies of the latents of the {name} dictionary."
        return {f"{name}-firing-frequency": (lambda: figures.firing_frequency(self.firing), caption)}

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the rows of the evaluation."""
        return self.evaluation.display_rows()

    def rows(self) -> dict[str, dict[str, str]]:
        """Returns the content of each table cell by row and column: a row for each site, and one for all at once."""
        found = {
            site: {"FVU": shown(own.fvu, ".4f"), "L0": shown(own.l0, ".1f"), **loss_cells(own.losses)}
            for site, own in self.evaluation.sites.items()
        }
        whole = {"L0": shown(self.evaluation.l0, ".1f"), **loss_cells(self.evaluation.losses)}
        own = {"never fired": never_fired(self.firing), SECONDS: f"{self.history.seconds:.0f}"}
        return {**found, ALL_AT_ONCE: {**whole, **own}}


def _note(kind: str, evaluation: SitesEvaluation) -> str:
    return f"{'No losses' if evaluation.losses is None else 'Losses'} of the {kind} dictionary: {evaluation.note}"


@dataclass(frozen=True, eq=False, repr=False)
class JointDecomposition(StudyResult):
    """The result of `decompose_jointly`.

    Attributes:
        results: Results of the dictionaries by kind, such as ``"cross-layer"``.
        settings: All settings of the run, including defaults.
        seconds: Duration of each phase.
        latents: Facts about all latents and neurons, for their pages, by name of the dictionary.
    """

    results: Mapping[str, JointResult]

    @property
    def subject(self) -> str:
        """The number of sites and the model, for titles."""
        return f"{len(self.settings['sites'])} sites of {self.settings['model']}"

    @property
    def lead(self) -> str:
        """The first sentence of the page."""
        n_latents, n_tokens = self.settings["n_latents"], self.settings["n_tokens_trained"]
        return f"One dictionary of {n_latents:,} latents for all sites, trained on {n_tokens:,} tokens."

    def rows(self) -> dict[str, dict[str, str]]:
        """Returns the content of each table cell by row and column."""
        several, found = len(self.results) > 1, {}
        for kind, result in self.results.items():
            for name, cells in result.rows().items():
                simulators = self._simulators(kind) if name == ALL_AT_ONCE else ""
                label = f"{kind}  {name}" if several else name
                found[label] = {column: {**cells, "simulators": simulators}.get(column, "") for column in COLUMNS}
        return found

    def _simulators(self, kind: str) -> str:
        facts = self.latents.get(kind)
        if facts is None or facts.neurons is None:
            return "-"
        n = sum(own == "simulator" for own in facts.types)
        return f"{n:,} ({n / len(facts.types):.1%})"

    def notes(self) -> list[str]:
        """Returns explanations of the table columns, with the numbers of tokens."""
        first = next(iter(self.results.values()))
        lines = [
            "FVU: fraction of the variance of the site's output that is unexplained. L0: mean number of active latents "
            "per token, of those that read the site or of all. Both and the losses are measured on "
            f"{first.evaluation.n_tokens:,} held-out tokens.",
            "Recovered: loss recovered relative to zero ablation and to mean ablation, with one MLP replaced, and with "
            f"all MLPs replaced ({ALL_AT_ONCE}).",
            *(_note(kind, own.evaluation) for kind, own in self.results.items() if own.evaluation.note),
            f"Never fired: latents that are zero on all {first.firing.n_tokens:,} held-out tokens.",
            f"Simulators: other latents with a decoder cosine above {self.settings['inspection']['threshold']} with a "
            "neuron of the MLP to which they write most.",
        ]
        if len(self.results) > 1:
            lines.append("Seconds: duration of the training of all dictionaries in one pass.")
        return lines
