"""`LatentScores`, the result of every score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from sparsedict import checks, display
from sparsedict.analysis._bootstrap import Estimate, bootstrap_mean
from sparsedict.analysis.scores._token_latents import TokenLatents
from sparsedict.display import Displayed

N_SAMPLES = 1000
UNSCORED = (
    "each is active on too few tokens, or inactive on too few. For units that are almost never 0, such as neurons with "
    "GELU, pass above=0.0 to `record`"
)
"""Reason why no latent has a score."""


def mean_estimate(values: Float[Tensor, " n"], seed: int = 0, n_samples: int = N_SAMPLES) -> Estimate:
    """Returns the mean of some values with its 95 % bootstrap interval (BCa). NaN is left out.

    Args:
        values: The values, such as one per latent.
        seed: Random seed of the samples.
        n_samples: Number of samples.
    """
    return bootstrap_mean(values, n_samples=n_samples, seed=seed)


@dataclass(frozen=True, eq=False, repr=False)
class LatentScores(Displayed):
    """The scores of the latents of a dictionary.

    Attributes:
        name: Name of the score.
        value: Score of each latent, ``[n_latents]``; NaN for a latent that isn't scored, because it fires too rarely.
        chance: The score of each latent without any relation to the text, ``[n_latents]``.
        low: Lower end of the 95 % interval of each latent, ``[n_latents]``; NaN if all resamples are equal, ``None`` if
            the score has no intervals.
        high: Upper end of the interval.
        columns: Further numbers per latent by name, ``[n_latents]`` each.
        words: Description of each latent in words, such as its rule; ``None`` if the score has none.
        notes: Numbers about the whole run by name, such as the number of answers that couldn't be read.
        seed: Random seed of the score.

    Raises:
        ValueError: If the tensors differ in length.

    Example:
        >>> import torch
        >>> scores = LatentScores("mine", torch.tensor([0.9, float("nan"), 0.7]), torch.full((3,), 0.5))
        >>> scores.n_scored, round(scores.mean.value, 3)
        (2, 0.8)
        >>> scores
        LatentScores('mine': 0.800 [0.700, 0.900], chance 0.500, 2 of 3 latents)
    """

    name: str
    value: Float[Tensor, " n_latents"]
    chance: Float[Tensor, " n_latents"]
    low: Float[Tensor, " n_latents"] | None = None
    high: Float[Tensor, " n_latents"] | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    words: tuple[str | None, ...] | None = None
    notes: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.value, Tensor) or self.value.ndim != 1:
            raise TypeError(f"`value` must be a tensor [n_latents], got {type(self.value).__name__}.")
        parts: dict[str, Any] = {"chance": self.chance, "low": self.low, "high": self.high, **self.columns}
        for name, part in parts.items():
            if part is not None:
                checks.latent_vector(name, part, len(self.value))
        if self.words is not None and len(self.words) != len(self.value):
            raise ValueError(f"`words` must have one entry for each latent, {len(self.value)}, got {len(self.words)}.")

    @property
    def scored(self) -> Bool[Tensor, " n_latents"]:
        """Mask of the latents with a score."""
        return ~self.value.isnan()

    @property
    def n_scored(self) -> int:
        """Number of latents with a score."""
        return int(self.scored.sum())

    @cached_property
    def mean(self) -> Estimate:
        """Mean over the scored latents, with its bootstrap interval over latents."""
        return mean_estimate(self.value, self.seed)

    @property
    def mean_chance(self) -> float:
        """Mean of the chance level over the scored latents."""
        return float(self.chance[self.scored].mean())

    @property
    def per_latent(self) -> dict[str, Tensor]:
        """All numbers per latent, by a name that starts with that of the score. Pages show this mapping."""
        own = {self.name: self.value, f"{self.name} low": self.low, f"{self.name} high": self.high}
        return {name: t for name, t in own.items() if t is not None} | {
            f"{self.name} {name}": column for name, column in self.columns.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns the scores as JSON-compatible values. NaN becomes ``None``."""
        numbers = {name: column.tolist() for name, column in self.per_latent.items()}
        return display.finite(
            {
                "name": self.name,
                "mean": asdict(self.mean),
                "chance": self.mean_chance,
                "n_latents": len(self.value),
                "n_scored": self.n_scored,
                "notes": dict(self.notes),
                "seed": self.seed,
                "per_latent": numbers | {"chance": self.chance.tolist()},
                "words": None if self.words is None else list(self.words),
            }
        )

    def display_rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("mean", str(self.mean)), ("chance", display.shown(self.mean_chance, ".3f"))]
        reason = "" if self.n_scored else f": {UNSCORED}"
        rows.append(("scored latents", f"{self.n_scored:,} of {len(self.value):,}{reason}"))
        rows += [(name, display.described(column[self.scored])) for name, column in self.columns.items()]
        return rows + [(name, f"{number:g}") for name, number in self.notes.items()]

    def __repr__(self) -> str:
        chance, counts = display.shown(self.mean_chance, ".3f"), f"{self.n_scored:,} of {len(self.value):,} latents"
        reason = "" if self.n_scored else f": {UNSCORED}"
        return f"LatentScores({self.name!r}: {self.mean}, chance {chance}, {counts}{reason})"


@runtime_checkable
class Score(Protocol):
    """Interface of a score of latents on a text. Any function of this form is a score."""

    def __call__(self, text: TokenLatents, /) -> LatentScores:
        """Returns the scores of the latents."""
        ...
