"""The defaults of a study: its recipes, and the settings of its measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from sparsedict import checks
from sparsedict.activations import Activation, BatchTopK, TopK
from sparsedict.dictionaries import SparseAutoencoder, SparseDistiller
from sparsedict.norms import DecoderNorm, UnitNorm
from sparsedict.sites import Site
from sparsedict.training import LazyAdam, Recipe, Resample

KINDS = ("distiller", "autoencoder")
ACTIVATION = TopK(32)
DECODER_NORM = UnitNorm()
STEP_HOOKS = (Resample(every=25, dead_after=50_000, until=0.75, n_inputs=8192),)
BATCH_SIZE = 1024


def distiller(site: Site, n_latents: int, **parts: Any) -> SparseDistiller:
    """Returns a new distiller of the MLP at a site.

    Args:
        site: The site of the MLP.
        n_latents: Number of latents.
        parts: Other arguments of `SparseDistiller`.
    """
    return SparseDistiller(site.d_in, site.d_out, n_latents, **parts)


def autoencoder(site: Site, n_latents: int, **parts: Any) -> SparseAutoencoder:
    """Returns a new autoencoder of the MLP output at a site.

    Args:
        site: The site of the MLP.
        n_latents: Number of latents.
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
    """Returns recipes of a distiller and an autoencoder with the same parts, for `decompose`.

    Args:
        activation: Activation of both dictionaries.
        decoder_norm: Constraint on decoder rows.
        skip: Whether the distiller has a linear skip connection.
        kinds: The kinds of dictionaries: ``"distiller"``, ``"autoencoder"`` or both.
        options: Arguments of `Trainee` except the dictionary, such as ``lr``. The default of ``step_hooks`` is
            `Resample`, which gives dead latents a new start until three quarters of the run.

    Raises:
        ValueError: If ``kinds`` is empty or contains an unknown kind or a kind twice.
    """
    if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(KINDS):
        raise ValueError(
            f"`kinds` must contain one or more of {', '.join(map(repr, KINDS))}, each at most once, got {kinds!r}."
        )
    options = {"step_hooks": STEP_HOOKS, **options}
    parts: dict[str, Any] = {"activation": activation, "decoder_norm": decoder_norm}
    makers = {"distiller": partial(distiller, skip=skip, **parts), "autoencoder": partial(autoencoder, **parts)}
    return {kind: Recipe(makers[kind], **options) for kind in kinds}


RECIPES = recipes()
"""The recipes of ``sparsedict train`` without options."""
DEMO = recipes(BatchTopK(32), step_hooks=(replace(*STEP_HOOKS, every=50),), optimizer=LazyAdam)
"""The recipes of ``sparsedict demo``."""
DEMO_BATCH_SIZE = 512
"""Tokens per step of ``sparsedict demo``. Such small steps are efficient for small dictionaries only."""


@dataclass(frozen=True)
class Inspection:
    """Settings of the measurements of a trained dictionary.

    Attributes:
        n_evaluation_tokens: Number of held-out tokens for reconstruction errors and losses, rounded up to whole
            batches.
        n_firing_tokens: Number of held-out tokens for firing frequencies and the pages of latents, rounded up to whole
            sequences.
        threshold: Decoder cosine with a neuron above which a latent is a simulator.
    """

    n_evaluation_tokens: int = 32_768
    n_firing_tokens: int = 100_000
    threshold: float = 0.8

    def __post_init__(self) -> None:
        for name in ("n_evaluation_tokens", "n_firing_tokens"):
            checks.at_least(name, getattr(self, name), 1)
        checks.set_in_range(self, "threshold", -1.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Returns all settings by name."""
        return asdict(self)
