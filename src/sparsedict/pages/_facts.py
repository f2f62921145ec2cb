"""`DictionaryFacts`, everything that the pages of a dictionary show, and `gather`, which finds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import Adapter
from sparsedict.analysis import (
    LatentRecords,
    Neighbours,
    SiteDictionary,
    TokenEffects,
    neighbours,
    site_dictionaries,
    token_effects,
)
from sparsedict.analysis.scores import LatentScores
from sparsedict.batches import Points, names_of, point_name
from sparsedict.dictionaries import Dictionary
from sparsedict.display import Displayed
from sparsedict.pages._layers import nearest_neurons_by_layer, neuron_rows, rows_at
from sparsedict.sites import Neurons, Site, Sites

COLUMNS = ("latent", "top", "promoted", "type", "layer", "frequency", "strong", "max", "neuron", "cosine")
"""Columns of every list of latents."""
LABELS = ("strongest on", "promotes", "fires on", "over 10 %", "maximum")
"""Headings of columns that differ from the names in `COLUMNS`. A search accepts both."""
Scores = Mapping[str, Mapping[str, Tensor | LatentScores]]
"""Scores by name of the dictionary and name of the score."""
RARELY_ZERO_NOTE = (
    "These units are almost never 0, as with GELU or SiLU. Instead of the share of tokens on which a unit fires, the "
    "list has the share on which it has at least 10 % of its largest magnitude, with the same sign. Units that fire on "
    "the same tokens are left out, because all units do."
)
NEVER_FIRED = "never fired"
"""Type of the latents that fire on none of the tokens of the pages."""
N_OTHERS = 3
"""Number of nearest latents in each other dictionary."""


@dataclass(frozen=True, eq=False, repr=False)
class DictionaryFacts(Displayed):
    """The facts about the latents of one dictionary.

    Attributes:
        description: The dictionary in one line.
        records: The activations of the latents.
        types: Type of each latent: ``simulator``, ``sparse`` or ``never fired``. Instead of the first two, it is
            ``neuron`` for neurons, and ``latent`` if the neurons of the MLP are unknown.
        is_neurons: Whether the units are the MLP's own neurons.
        neurons: The nearest neurons, or ``None`` if they are unknown. For a dictionary that writes several points, the
            neurons at the point where the latent's decoder norm is largest.
        own: The nearest latents of the same dictionary.
        others: The nearest latents of each other dictionary that writes some of the same points, by its name. The rows
            are compared at the common points.
        effects: The tokens that the latents promote and suppress, or ``None`` if the unembedding is unknown.
        points: Points that the dictionary writes, if there are several.
        norms: Norm of the decoder row at each point, or ``None`` if there is a single point, ``[n_latents, n_points]``.
        strongest: Index of the point of largest norm, or ``None`` if there is a single point, ``[n_latents]``.
        scores: Scores by name, ``[n_latents]`` each; NaN where unknown.
        notes: Reasons why facts are missing.
        words: Descriptions of each latent in words, by their name such as ``rule``; ``None`` where unknown.
    """

    description: str
    records: LatentRecords
    types: Sequence[str]
    is_neurons: bool
    neurons: Neighbours | None
    own: Neighbours | None
    others: Mapping[str, Neighbours]
    effects: TokenEffects | None
    points: tuple[str, ...] = ()
    norms: Float[Tensor, "n_latents n_points"] | None = None
    strongest: Int[Tensor, " n_latents"] | None = None
    scores: Mapping[str, Float[Tensor, " n_latents"]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    words: Mapping[str, Sequence[str | None]] = field(default_factory=dict)


def gather(
    site: Site | Sites,
    dictionaries: Mapping[str, Any],
    records: Mapping[str, LatentRecords],
    *,
    scores: Scores | None = None,
    threshold: float = 0.8,
    n_related: int = 5,
    n_effects: int = 10,
    reads: Points | None = None,
) -> dict[str, DictionaryFacts]:
    """Returns the facts about the latents of several dictionaries, from their records and weights.

    Args:
        site: The site or the sites.
        dictionaries: Dictionaries by name, in the form that `collect` takes.
        records: Their records by name, as `collect` returns them.
        scores: Scores by name of the dictionary and name of the score: ``[n_latents]`` each, or a `LatentScores`, whose
            words are shown with the latents.
        threshold: Decoder cosine with a neuron above which a latent is a simulator.
        n_related: Number of nearest neurons and latents.
        n_effects: Number of tokens that a latent promotes, and that it suppresses.
        reads: The activations that objects of another library read.

    Raises:
        ValueError: If the names of records or scores aren't those of the dictionaries, or lengths differ.
    """
    resolved = {own.name: own for own in site_dictionaries(site, dictionaries, reads)}
    checks.mapping("records", records, LatentRecords, "a mapping of names to records, as `collect` returns them")
    threshold = checks.in_range("threshold", threshold, -1.0, 1.0)
    scores = {} if scores is None else scores
    if set(records) != set(resolved):
        raise ValueError(f"`records` must have the names {list(resolved)}, got {list(records)}.")
    check_scores(scores, {name: own.n_latents for name, own in records.items()})
    found = {}
    for name, own in resolved.items():
        given = scores.get(name, {})
        checked = _scores(name, given, records[name].n_latents)
        facts = _facts(site, own, resolved, records[name], checked, threshold, n_related, n_effects)
        words = {own.name: own.words for own in given.values() if isinstance(own, LatentScores) and own.words}
        found[name] = replace(facts, words=words)
    return found


def check_scores(scores: Scores, n_latents: Mapping[str, int | None]) -> None:
    """Checks scores.

    Args:
        scores: Scores by name of the dictionary and name of the score.
        n_latents: Number of latents of each dictionary, ``None`` if it is unknown.

    Raises:
        ValueError: If a name isn't that of a dictionary or is that of a column, or a length differs.
    """
    checks.mapping("scores", scores, Mapping, "a mapping of names of dictionaries to scores by name")
    for name, own in scores.items():
        if name not in n_latents:
            raise ValueError(f"`scores` must have names of dictionaries, {list(n_latents)}, got {name!r}.")
        if (expected := n_latents[name]) is not None:
            _scores(name, own, expected)


def _facts(
    site: Site | Sites,
    own: SiteDictionary,
    resolved: Mapping[str, SiteDictionary],
    records: LatentRecords,
    scores: Mapping[str, Tensor],
    threshold: float,
    n_related: int,
    n_effects: int,
) -> DictionaryFacts:
    source, notes = own.adapter.source, [RARELY_ZERO_NOTE] if records.rarely_zero else []
    is_neurons = isinstance(source, Neurons)
    at = site if isinstance(site, Site) else site[own.site] if own.site is not None else None
    nearest, effects = None, None
    points = names_of(own.adapter.points[1])
    norms = source.point_norms().detach().float().cpu() if isinstance(source, Dictionary) and len(points) > 1 else None
    if not is_neurons:
        try:
            nearest = _nearest_neurons(site, at, own.adapter, norms, n_related)
        except (ValueError, TypeError) as error:
            notes.append(f"The nearest neurons are left out: {error}")
    try:
        effects = token_effects(site if at is None else at, own.adapter, k=n_effects)
    except (ValueError, TypeError) as error:
        notes.append(f"Promoted and suppressed tokens are left out: {error}")
    return DictionaryFacts(
        _description(own.adapter, records),
        records,
        _types(records, nearest, threshold, is_neurons=is_neurons),
        is_neurons,
        nearest,
        _neighbours(own.adapter, None, n_related),
        _others(own, resolved),
        effects,
        points if norms is not None else (),
        norms,
        None if norms is None else norms.argmax(1),
        scores,
        notes,
    )


def _others(own: SiteDictionary, resolved: Mapping[str, SiteDictionary]) -> dict[str, Neighbours]:
    """Returns the nearest latents of the other dictionaries that write some of the same points."""
    found, whole = {}, _whole(own)
    for name, other in resolved.items():
        theirs = _whole(other)
        shared = [point for point in whole if point in theirs]
        if name == own.name or not shared:
            continue
        try:
            found[name] = neighbours(
                rows_at(own.adapter, whole, shared), rows_at(other.adapter, theirs, shared), k=N_OTHERS
            )
        except (ValueError, TypeError, AttributeError):
            continue  # an object of another library without decoder rows
    return found


def _whole(own: SiteDictionary) -> tuple[str, ...]:
    """Returns the full names of the points that a dictionary writes."""
    return tuple(
        name if "." in name or own.site is None else point_name(own.site, name)
        for name in names_of(own.adapter.points[1])
    )


def _nearest_neurons(site: Site | Sites, at: Site | None, adapter: Adapter, norms: Tensor | None, k: int) -> Neighbours:
    point, *more = names_of(adapter.points[1])
    if at is not None and not more:
        return neighbours(adapter, neuron_rows(at, point.rpartition(".")[2]), k=k)
    if isinstance(site, Site) or norms is None:
        raise ValueError("the latents write several layers.")
    return nearest_neurons_by_layer(site, adapter.source, norms, k)


def _neighbours(a: Adapter, b: Adapter | None, k: int) -> Neighbours | None:
    try:
        return neighbours(a, b, k=k)
    except (ValueError, TypeError):
        return None  # an object of another library without decoder rows


def _types(records: LatentRecords, nearest: Neighbours | None, threshold: float, *, is_neurons: bool) -> list[str]:
    dead = records.dead.tolist()
    if nearest is None:
        return [NEVER_FIRED if own else "neuron" if is_neurons else "latent" for own in dead]
    simulates = (nearest.cosine[:, 0] > threshold).tolist()
    return [NEVER_FIRED if a else "simulator" if b else "sparse" for a, b in zip(dead, simulates, strict=True)]


def _description(adapter: Adapter, records: LatentRecords) -> str:
    source = adapter.source
    kind = "The MLP's own neurons" if isinstance(source, Neurons) else type(source).__name__
    activation = f", {source.activation!r}" if isinstance(source, Dictionary) else ""
    units = "neurons" if isinstance(source, Neurons) else "latents"
    return (
        f"{kind}{activation}: {records.n_latents:,} {units} on {records.n_tokens:,} tokens of "
        f"{records.n_sequences:,} sequences."
    )


def _scores(name: str, scores: Mapping[str, Tensor | LatentScores], n_latents: int) -> dict[str, Tensor]:
    found = {}
    for score, values in scores.items():
        if not isinstance(score, str) or not score or score.lower() in (*COLUMNS, *LABELS):
            taken = ", ".join((*COLUMNS, *LABELS))
            raise ValueError(f"`scores[{name!r}]` must have other names than the columns {taken}, got {score!r}.")
        values = values.value if isinstance(values, LatentScores) else values
        values = torch.as_tensor(values, device="cpu").detach().double()
        found[score] = checks.latent_vector(f"scores[{name!r}][{score!r}]", values, n_latents)
    return found
