"""The defaults of a study: its recipes, and the settings of its measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from sparsedict import checks
from sparsedict.activations import AbsTopK, Activation, BatchTopK, TopK
from sparsedict.dictionaries import Dictionary
from sparsedict.norms import DecoderNorm, UnitNorm
from sparsedict.penalties import AuxK
from sparsedict.studies._kinds import BOTH, KINDS, Kind
from sparsedict.training import AnnealK, LazyAdam, Recipe, Resample
from sparsedict.training.schedules import Cosine, Linear

ACTIVATION = BatchTopK(32)
DECODER_NORM = UnitNorm()
RESAMPLE = Resample(every=25, dead_after=50_000, until=0.75, n_inputs=8192, decoder_rows="errors")
BATCH_SIZE = 1024


def recommended_options(dictionary: Dictionary) -> dict[str, Any]:
    """Returns the recommended options of `fit` and `Trainee` for a dictionary: those of ``sparsedict train``.

    They depend on the activation, on whether the dictionary computes outputs from inputs, and on whether it has several
    sites. The options are those of `recipes`, which constructs the dictionary as well. They are meant for batches of
    512 to 2,048 tokens. Activations without a number of active latents also need a penalty, such as `L1`.

    Args:
        dictionary: The dictionary to train. A distiller should have ``input_norm=InputCentre()``, as in `recipes`.

    Raises:
        TypeError: If ``dictionary`` isn't a dictionary.

    Example:
        >>> import torch, sparsedict as sd
        >>> parts = {"activation": sd.BatchTopK(2), "decoder_norm": sd.UnitNorm()}
        >>> sae = sd.SparseAutoencoder(4, 16, **parts)
        >>> options = recommended_options(sae)
        >>> sorted(options)
        ['optimizer', 'penalties', 'schedule', 'step_hooks']
        >>> x = torch.randn(2_000, 4, generator=torch.Generator().manual_seed(0))
        >>> sd.fit(sae, x, n_tokens=2_000, batch_size=100, progress=False, **options).n_steps
        20
    """
    checks.instance("dictionary", dictionary, Dictionary, "a dictionary, such as SparseDistiller(...)")
    is_joint = not isinstance(dictionary.reads, str)
    is_transcoder = dictionary.reads != dictionary.writes
    kind = next(kind for kind in KINDS.values() if (kind.is_joint, kind.is_transcoder) == (is_joint, is_transcoder))
    return options_for(kind, dictionary.activation)


def options_for(kind: Kind, activation: Activation) -> dict[str, Any]:
    """Returns the default options of `Trainee` for a kind of dictionary and an activation.

    Only dictionaries of one site with `TopK`, `BatchTopK` and `AbsTopK` have been compared with other options
    (``python -m benchmarks.quality``).
    """
    if kind.is_joint or not isinstance(activation, TopK | BatchTopK | AbsTopK):
        return {"step_hooks": (replace(RESAMPLE, decoder_rows="targets"),), **kind.options()}
    return {
        "penalties": (AuxK(dead_after=20_000, coefficient=1 / 4, slope=1.0),),
        "step_hooks": (RESAMPLE, AnnealK(until=0.5)),
        "optimizer": LazyAdam,
        "schedule": Linear(warm_up=0.1, start=0.78),
        **kind.options(),
        **kind.top_k_options(),
    }


def recipes(
    activation: Activation = ACTIVATION,
    *,
    decoder_norm: DecoderNorm = DECODER_NORM,
    skip: bool = False,
    kinds: Sequence[str] = BOTH,
    **options: Any,
) -> dict[str, Recipe]:
    """Returns recipes of dictionaries with the same parts, for `decompose`, `decompose_sites` or `decompose_jointly`.

    Args:
        activation: Activation of the dictionaries. In a cross-layer distiller it selects latents in each layer.
        decoder_norm: Constraint on decoder rows.
        skip: Whether distillers have a linear skip connection.
        kinds: The kinds of dictionaries: ``"distiller"`` and ``"autoencoder"`` for `decompose` and `decompose_sites`;
            ``"cross-layer"`` and ``"crosscoder"`` for `decompose_jointly`.
        options: Arguments of `Trainee` except the dictionary, such as ``lr``. The defaults depend on the activation.
            Dictionaries of one site with `TopK`, `BatchTopK` and `AbsTopK` are trained with `LazyAdam`, `AuxK`,
            `Resample` and `AnnealK`, and others with Adam and `Resample`. The default of ``loss`` is `BalancedError`
            for dictionaries of several sites. Arguments replace defaults of the same name.

    Raises:
        ValueError: If ``kinds`` is empty or contains an unknown kind or a kind twice, or kinds of one site and of
            several sites together.
    """
    names = checks.items("kinds", kinds, str, "a list of kinds, such as ['distiller']")
    if not names or len(set(names)) < len(names) or not set(names) <= set(KINDS):
        raise ValueError(
            f"`kinds` must contain one or more of {', '.join(map(repr, KINDS))}, each at most once, got {kinds!r}."
        )
    chosen = [KINDS[name] for name in names]
    if len({kind.is_joint for kind in chosen}) > 1:
        joint = [repr(kind.name) for kind in chosen if kind.is_joint]
        raise ValueError(
            f"`kinds` must be all of one site or all of several sites, got {', '.join(joint)}, which have several "
            f"sites, with {', '.join(repr(kind.name) for kind in chosen if not kind.is_joint)}."
        )
    parts: dict[str, Any] = {"activation": activation, "decoder_norm": decoder_norm}
    found = {}
    for kind in chosen:
        own = parts | ({"skip": skip} if kind.has_skip else {})
        found[kind.name] = Recipe(partial(kind.make, **own), **{**options_for(kind, activation), **options})
    return found


RECIPES = recipes()
"""The recipes of ``sparsedict train`` without options."""
_SMALL_STEPS = recipes(
    step_hooks=(replace(RESAMPLE, every=50),),
    penalties=(),
    lr=None,
    optimizer=LazyAdam,
    schedule=Cosine(warm_up=0.2),
)
DEMO = {
    "distiller": Recipe(partial(_SMALL_STEPS["distiller"].make, input_norm=None), **_SMALL_STEPS["distiller"].options),
    "autoencoder": _SMALL_STEPS["autoencoder"],
}
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
