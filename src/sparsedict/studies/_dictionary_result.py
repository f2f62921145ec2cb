"""`DictionaryResult`, a trained dictionary with its measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sparsedict import figures
from sparsedict.analysis import Evaluation, FiringFrequencies, LatentTypes, NeuronMatch, SitesEvaluation
from sparsedict.dictionaries import Dictionary
from sparsedict.display import Displayed, finite, shown
from sparsedict.training import History

SECONDS = "seconds"
EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, eq=False, repr=False)
class DictionaryResult(Displayed):
    """A trained dictionary with its measurements.

    Attributes:
        dictionary: The trained dictionary.
        history: Records of the training.
        evaluation: Evaluation on held-out tokens.
        firing: Firing frequencies on held-out tokens.
        match: Match with the neurons of the MLP, or ``None`` if the neurons are unknown.
        types: Types of the latents by this match, or ``None``.
    """

    dictionary: Dictionary
    history: History
    evaluation: Evaluation
    firing: FiringFrequencies
    match: NeuronMatch | None
    types: LatentTypes | None

    def to_dict(self) -> dict[str, Any]:
        """Returns all numbers for JSON, with lists for the numbers of each latent."""
        latents = {
            "decoder_cosine": _rounded(self.match and self.match.decoder_cosine),
            "decoder_neuron": None if self.match is None else self.match.decoder_neuron.tolist(),
            "encoder_cosine": _rounded(self.match and self.match.encoder_cosine),
        }
        n_simulators = None if self.types is None else self.types.n_simulators
        return result_numbers(self.evaluation, self.firing, self.history, {"n_simulators": n_simulators}, latents)

    def figures(self, name: str) -> dict[str, tuple[Callable[[], Any], str]]:
        """Returns a function that draws each figure, and its caption, by the name of its file.

        Args:
            name: Name of the dictionary.
        """
        match, types, firing = self.match, self.types, self.firing
        drawn: dict[str, tuple[Callable[[], Any], str]] = {}
        if match is not None:
            drawn[f"{name}-decoder-similarity"] = (
                lambda: figures.decoder_similarity(match, types),
                f"Cosine of each decoder row of the {name} with that of the nearest neuron. The line shows the same "
                "number of random directions.",
            )
            if match.encoder_cosine is not None and name == "distiller":
                drawn[f"{name}-encoder-similarity"] = (
                    lambda: figures.encoder_similarity(match, types),
                    f"The same for the encoder rows of the {name}. The types of latents are determined by the decoder.",
                )
        drawn[f"{name}-firing-frequency"] = (
            lambda: figures.firing_frequency(firing, types),
            f"Firing frequencies of the latents of the {name}.",
        )
        return drawn

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the name and content of each table cell."""
        return list(self.cells().items())

    def cells(self) -> Mapping[str, str]:
        """Returns the content of each table cell, by column."""
        types = self.types
        return {
            "FVU": shown(self.evaluation.fvu, ".4f"),
            "L0": f"{self.evaluation.l0:.1f}",
            **loss_cells(self.evaluation.losses),
            "never fired": never_fired(self.firing),
            "simulators": "-" if types is None else f"{types.n_simulators:,} ({types.share:.1%})",
            SECONDS: f"{self.history.seconds:.0f}",
        }


def result_numbers(
    evaluation: Evaluation | SitesEvaluation,
    firing: FiringFrequencies,
    history: History,
    others: Mapping[str, Any] = EMPTY,
    latents: Mapping[str, Any] = EMPTY,
) -> dict[str, Any]:
    """Returns the numbers of a result for JSON.

    Args:
        evaluation: Evaluation on held-out tokens.
        firing: Firing frequencies on held-out tokens.
        history: Records of the training.
        others: More numbers by name.
        latents: More lists with a number for each latent, by name.
    """
    numbers = {
        **evaluation.to_dict(),
        "n_evaluation_tokens": evaluation.n_tokens,
        "n_dead": firing.dead.n_dead,
        "n_firing_tokens": firing.dead.n_tokens,
        **others,
        "seconds": history.seconds,
        "latents": {"firing_counts": firing.counts.tolist(), **latents},
        "history": history.to_dict(),
    }
    return finite(numbers)


def loss_cells(losses: Any) -> dict[str, str]:
    """Returns the table cells of the losses of an evaluation, by column."""
    return {
        "recovered (zero)": shown(losses and losses.zero, ".1%"),
        "recovered (mean)": shown(losses and losses.mean, ".1%"),
        "KL": shown(losses and losses.kl, ".4f"),
    }


def never_fired(firing: FiringFrequencies) -> str:
    """Returns the table cell of the latents that never fired."""
    return f"{firing.dead.n_dead:,} ({firing.dead.share:.1%})"


def _rounded(values: Any) -> list[float] | None:
    return None if values is None else [round(value, 6) for value in values.tolist()]
