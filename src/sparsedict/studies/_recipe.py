"""How the dictionaries of a study are made, trained and looked at: the one place of its defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from sparsedict import checks
from sparsedict.activations import Activation, BatchTopK, TopK
from sparsedict.norms import DecoderNorm, UnitNorm
from sparsedict.penalties import AuxK, Penalty
from sparsedict.training import Cosine, LazyAdam, OptimizerFactory, Schedule

ACTIVATION = TopK(32)
DECODER_NORM = UnitNorm()
PENALTIES = (AuxK(dead_after=100_000),)
SCHEDULE = Cosine(warm_up=0.2)


@dataclass(frozen=True)
class Recipe:
    """What the dictionaries of a study are made of, and how they are trained.

    Attributes:
        activation: Of each dictionary.
        decoder_norm: The constraint on decoder rows.
        penalties: What presses latents to be sparse, or brings silent ones back.
        optimizer: An optimiser class or a partial of one; ``None`` for Adam.
        lr: Its peak learning rate; ``None`` for ``training.default_lr``.
        schedule: The learning rate's course.
        batch_size: Tokens per step.
        skip: Whether the distiller has a linear skip.
    """

    activation: Activation = ACTIVATION
    decoder_norm: DecoderNorm = DECODER_NORM
    penalties: tuple[Penalty, ...] = PENALTIES
    optimizer: OptimizerFactory | None = None
    lr: float | None = None
    schedule: Schedule = SCHEDULE
    batch_size: int = 1024
    skip: bool = False

    def __post_init__(self) -> None:
        if self.lr is not None:
            checks.set_in_range(self, "lr", 0.0, open_low=True)
        checks.set_at_least(self, "batch_size", 1)

    def to_dict(self) -> dict[str, Any]:
        """Returns every setting, parts as they are written in code."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, type):
        return value.__name__
    return value if value is None or isinstance(value, bool | int | float) else repr(value)


DEMO = Recipe(activation=BatchTopK(32), penalties=(AuxK(dead_after=30_000),), optimizer=LazyAdam, batch_size=512)
"""The recipe of ``sparsedict demo``. Only a small dictionary affords steps so small."""


@dataclass(frozen=True)
class Inspection:
    """What is measured of a trained dictionary, and on how many held-out tokens.

    Attributes:
        n_evaluation_tokens: Tokens for reconstruction errors and the model's losses, rounded up to whole batches.
        n_firing_tokens: Tokens on which firing is counted.
        n_example_tokens: Tokens among which examples are sought, rounded up to whole sequences.
        threshold: Decoder cosine with a neuron above which a latent is a simulator.
        n_shown: Latents whose top examples are kept, drawn among the sparse ones that fire neither hardly ever nor
            nearly always.
        n_examples: Examples of each.
        least_firings: Tokens on which a latent must fire to be drawn.
        most_frequent: Share of tokens above which it isn't drawn.
    """

    n_evaluation_tokens: int = 32_768
    n_firing_tokens: int = 100_000
    n_example_tokens: int = 65_536
    threshold: float = 0.8
    n_shown: int = 20
    n_examples: int = 8
    least_firings: int = 10
    most_frequent: float = 0.05

    def __post_init__(self) -> None:
        for name in ("n_evaluation_tokens", "n_firing_tokens", "n_example_tokens", "n_examples", "least_firings"):
            checks.at_least(name, getattr(self, name), 1)
        checks.set_at_least(self, "n_shown", 0)
        checks.set_in_range(self, "threshold", -1.0, 1.0)
        checks.set_in_range(self, "most_frequent", 0.0, 1.0, open_low=True)

    def to_dict(self) -> dict[str, Any]:
        """Returns every setting."""
        return asdict(self)
