"""The recipes of a study, and what is measured of its dictionaries: the one place of its defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from sparsedict import checks
from sparsedict.activations import Activation, BatchTopK, TopK
from sparsedict.dictionaries import SparseAutoencoder, SparseDistiller
from sparsedict.norms import DecoderNorm, UnitNorm
from sparsedict.penalties import AuxK
from sparsedict.sites import Site
from sparsedict.training import LazyAdam, Recipe

KINDS = ("distiller", "autoencoder")
ACTIVATION = TopK(32)
DECODER_NORM = UnitNorm()
PENALTIES = (AuxK(dead_after=100_000),)
BATCH_SIZE = 1024


def distiller(site: Site, n_latents: int, **parts: Any) -> SparseDistiller:
    """Makes a distiller of a site's MLP.

    Args:
        site: Where the MLP is.
        n_latents: Width.
        parts: Other arguments of `SparseDistiller`.
    """
    return SparseDistiller(site.d_in, site.d_out, n_latents, **parts)


def autoencoder(site: Site, n_latents: int, **parts: Any) -> SparseAutoencoder:
    """Makes an autoencoder of the output of a site's MLP.

    Args:
        site: Where the MLP is.
        n_latents: Width.
        parts: Other arguments of `SparseAutoencoder`.
    """
    return SparseAutoencoder(site.d_out, n_latents, **parts)


def recipes(
    activation: Activation = ACTIVATION,
    *,
    decoder_norm: DecoderNorm = DECODER_NORM,
    skip: bool = False,
    kinds: Sequence[str] = KINDS,
    **options: Any,
) -> dict[str, Recipe]:
    """Returns the recipes of a distiller and an autoencoder with the same parts, for `take_apart`.

    Args:
        activation: Of both.
        decoder_norm: The constraint on decoder rows.
        skip: Whether the distiller has a linear skip.
        kinds: Which of ``"distiller"`` and ``"autoencoder"``.
        options: Arguments of `Trainee` but the dictionary, such as ``lr``. Without ``penalties``, dead latents are
            revived by `AuxK`.

    Raises:
        ValueError: If ``kinds`` names no kind, another one, or one twice.
    """
    if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(KINDS):
        raise ValueError(f"`kinds` must name some of {', '.join(map(repr, KINDS))}, each once, got {kinds!r}.")
    options = {"penalties": PENALTIES, **options}
    parts: dict[str, Any] = {"activation": activation, "decoder_norm": decoder_norm}
    makers = {"distiller": partial(distiller, skip=skip, **parts), "autoencoder": partial(autoencoder, **parts)}
    return {kind: Recipe(makers[kind], **options) for kind in kinds}


RECIPES = recipes()
"""The recipes of ``sparsedict train`` without options."""
DEMO = recipes(BatchTopK(32), penalties=(AuxK(dead_after=30_000),), optimizer=LazyAdam)
"""The recipes of ``sparsedict demo``."""
DEMO_BATCH_SIZE = 512
"""Tokens per step of ``sparsedict demo``. Only a small dictionary affords steps so small."""


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
