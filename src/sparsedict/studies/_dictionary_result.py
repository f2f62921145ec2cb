"""`DictionaryResult`, a trained dictionary with its measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sparsedict import figures
from sparsedict.analysis import Evaluation, FiringFrequencies, LatentTypes, NeuronMatch
from sparsedict.dictionaries import Dictionary
from sparsedict.display import Displayed, finite, shown
from sparsedict.training import History

SECONDS = "seconds"


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
        dead = self.firing.dead
        numbers = {
            **self.evaluation.to_dict(),
            "n_evaluation_tokens": self.evaluation.n_tokens,
            "n_dead": dead.n_dead,
            "n_firing_tokens": dead.n_tokens,
            "n_simulators": None if self.types is None else self.types.n_simulators,
            "seconds": self.history.seconds,
            "latents": {
                "firing_counts": self.firing.counts.tolist(),
                "decoder_cosine": _rounded(self.match and self.match.decoder_cosine),
                "decoder_neuron": None if self.match is None else self.match.decoder_neuron.tolist(),
                "encoder_cosine": _rounded(self.match and self.match.encoder_cosine),
            },
            "history": self.history.to_dict(),
        }
        return finite(numbers)

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
        losses, types = self.evaluation.losses, self.types
        return {
            "FVU": shown(self.evaluation.fvu, ".4f"),
            "L0": f"{self.evaluation.l0:.1f}",
            "recovered (zero)": shown(losses and losses.zero, ".1%"),
            "recovered (mean)": shown(losses and losses.mean, ".1%"),
            "KL": shown(losses and losses.kl, ".4f"),
            "never fired": f"{self.firing.dead.n_dead:,} ({self.firing.dead.share:.1%})",
            "simulators": "-" if types is None else f"{types.n_simulators:,} ({types.share:.1%})",
            SECONDS: f"{self.history.seconds:.0f}",
        }


def _rounded(values: Any) -> list[float] | None:
    return None if values is None else [round(value, 6) for value in values.tolist()]
