"""The main job: one MLP, a distiller and an autoencoder of it, and what their latents are."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from sparsedict.analysis import (
    FiringFrequencies,
    TopExamples,
    evaluate,
    firing_frequencies,
    latent_types,
    match_neurons,
    top_examples,
)
from sparsedict.data import ActivationStream
from sparsedict.dictionaries import Dictionary, SparseAutoencoder, SparseDistiller
from sparsedict.progress import Phases
from sparsedict.sites import Neurons, Site
from sparsedict.studies._dictionary_result import DictionaryResult
from sparsedict.studies._recipe import Inspection, Recipe
from sparsedict.studies._taken_apart import TakenApart
from sparsedict.studies._used import used_settings
from sparsedict.training import History, Trainee, fit_many
from sparsedict.training.callbacks import Callback

Kind = Literal["distiller", "autoencoder"]
KINDS: tuple[Kind, ...] = ("distiller", "autoencoder")
RECIPE = Recipe()
INSPECTION = Inspection()

COUNTED_AT_ONCE = 1024
"""Tokens encoded together when firing is counted."""


def take_apart(
    site: Site,
    train_tokens: Any,
    held_out_tokens: Tensor,
    *,
    n_latents: int,
    n_tokens: int,
    recipe: Recipe = RECIPE,
    inspection: Inspection = INSPECTION,
    kinds: Sequence[Kind] = KINDS,
    tokenizer: Any = None,
    context: int | None = None,
    model_name: str | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
    verbose: bool | None = None,
    autocast: torch.dtype | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | timedelta | None = None,
    resume: bool = False,
) -> TakenApart:
    """Trains a sparse distiller and an autoencoder of one MLP in one pass, and finds out what they are.

    Args:
        site: Where the MLP is.
        train_tokens: What to train on, in any form that an `ActivationStream` takes.
        held_out_tokens: Ids ``[n_sequences, n_positions]`` to measure on, of text that isn't trained on; see
            `sparsedict.data.pack` for texts.
        n_latents: Of each dictionary.
        n_tokens: Tokens to train on; text that holds fewer is repeated.
        recipe: What the dictionaries are made of, and how they are trained.
        inspection: What is measured, and on how many tokens.
        kinds: Which dictionaries: ``"distiller"``, ``"autoencoder"``.
        tokenizer: Of texts to train on.
        context: Tokens per sequence to train on, for texts and for one long row.
        model_name: What to call the model in the results; by default what it calls itself.
        seed: Of the initial weights, the shuffle and the latents shown.
        dtype: Of the dictionaries.
        progress: Whether to show a progress bar on the standard error stream.
        verbose: Whether to name each part of the work there; as ``progress`` where left out.
        autocast: Type in which training computes products, as for `fit`.
        callbacks: Called at each record of the training, as for `fit`. Dictionaries are named by their kind.
        checkpoint: Folder for checkpoints of the training, as for `fit`; none by default.
        checkpoint_every: Steps or time between them, as for `fit`.
        resume: Whether to go on from the newest of them, or begin where there is none.

    Raises:
        ValueError: If there is no kind to train, or the held-out tokens aren't rows of ids.
    """
    found = take_apart_sites(
        {site.name: site},
        train_tokens,
        held_out_tokens,
        n_latents={site.name: n_latents},
        n_tokens=n_tokens,
        recipe=recipe,
        inspection=inspection,
        kinds=kinds,
        tokenizer=tokenizer,
        context=context,
        model_name=model_name,
        seed=seed,
        dtype=dtype,
        progress=progress,
        verbose=verbose,
        autocast=autocast,
        callbacks=callbacks,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
    )
    return found[site.name]


def take_apart_sites(
    sites: Mapping[str, Site],
    train_tokens: Any,
    held_out_tokens: Tensor,
    *,
    n_latents: Mapping[str, int],
    n_tokens: int,
    recipe: Recipe = RECIPE,
    inspection: Inspection = INSPECTION,
    kinds: Sequence[Kind] = KINDS,
    tokenizer: Any = None,
    context: int | None = None,
    model_name: str | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
    verbose: bool | None = None,
    autocast: torch.dtype | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | timedelta | None = None,
    resume: bool = False,
) -> dict[str, TakenApart]:
    """Takes several MLPs of one model apart: the model runs once on the text for all of them.

    All dictionaries are in memory at once while they are trained.

    Args:
        sites: By name, of one model.
        train_tokens: See `take_apart`.
        held_out_tokens: See `take_apart`.
        n_latents: Of each dictionary of a site, by the site's name.
        n_tokens: See `take_apart`.
        recipe: See `take_apart`.
        inspection: See `take_apart`.
        kinds: See `take_apart`.
        tokenizer: See `take_apart`.
        context: See `take_apart`.
        model_name: See `take_apart`.
        seed: See `take_apart`.
        dtype: See `take_apart`.
        progress: See `take_apart`.
        verbose: See `take_apart`.
        autocast: See `take_apart`.
        callbacks: See `take_apart`. Dictionaries are named ``SITE/KIND``.
        checkpoint: See `take_apart`.
        checkpoint_every: See `take_apart`.
        resume: See `take_apart`.

    Returns:
        What was found, by the site's name; see `write_sites`.

    Raises:
        ValueError: If there is no site or no kind to train, or the held-out tokens aren't rows of ids.
    """
    _check(sites, kinds, held_out_tokens)
    phases = Phases(progress if verbose is None else verbose)
    known = {name: _neurons(site) for name, site in sites.items()}
    made = {
        name: {
            kind: _make(kind, site, n_latents[name], recipe, seed, {"dtype": dtype, "device": site.device})
            for kind in kinds
        }
        for name, site in sites.items()
    }
    with phases("training", f"harvesting and training on {n_tokens:,} tokens"):
        stream = ActivationStream(
            sites,
            train_tokens,
            batch_size=recipe.batch_size,
            seed=seed,
            tokenizer=tokenizer,
            context=context,
            dtype=dtype,
        )
        stops: dict[str, Any] = {"checkpoint": checkpoint, "checkpoint_every": checkpoint_every, "resume": resume}
        how = {"progress": progress, "autocast": autocast, "callbacks": callbacks, **stops}
        histories = _train(made, stream, recipe, n_tokens, **how)
    run = {"model_name": model_name, "n_tokens": n_tokens, "seed": seed, "autocast": autocast}
    found: dict[str, TakenApart] = {}
    for name, site in sites.items():
        own = phases.within(f"{name}: " if len(sites) > 1 else "")
        results = _measured(site, made[name], histories[name], held_out_tokens, known[name][0], inspection, seed, own)
        settings = used_settings(site, results, stream, recipe, inspection, held_out_tokens=held_out_tokens, **run)
        for dictionary in made[name].values():
            dictionary.trained_on.update({key: settings[key] for key in ("model", "site", "left_out_tokens", "seed")})
        found[name] = TakenApart(results, settings, {**phases.seconds, **own.seconds}, known[name][1])
    return found


def drawn(
    firing: FiringFrequencies, among: Bool[Tensor, " n_latents"] | None, inspection: Inspection, seed: int
) -> list[int]:
    """Draws latents to show, in ascending order: among those allowed, those that fire often enough but not too often.

    Args:
        firing: How often each fires.
        among: Those allowed; ``None`` for all.
        inspection: How many to draw, and what counts as often.
        seed: Of the draw.
    """
    counts = firing.counts.cpu()
    suited = (counts >= inspection.least_firings) & (counts <= inspection.most_frequent * firing.n_tokens)
    if among is not None:
        suited &= among.cpu()
    found = suited.nonzero().squeeze(1)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    return found[order[: inspection.n_shown]].sort().values.tolist()


def _measured(
    site: Site,
    dictionaries: Mapping[str, Dictionary],
    histories: Mapping[str, History],
    tokens: Tensor,
    neurons: Neurons | None,
    inspection: Inspection,
    seed: int,
    phases: Phases,
) -> dict[str, DictionaryResult]:
    """Measures the dictionaries of one site on held-out tokens; returns the results by kind."""
    with phases("counting", "counting on which held-out tokens each latent fires"):
        firing = _firing(site, dictionaries, tokens, inspection)
    results: dict[str, DictionaryResult] = {}
    for kind, dictionary in dictionaries.items():
        with phases(f"measuring the {kind}", f"measuring the {kind} on held-out tokens"):
            found = _inspect(site, dictionary, firing[kind], tokens, neurons, inspection, seed)
            results[kind] = DictionaryResult(dictionary, histories[kind], firing=firing[kind], **found)
    return results


def _check(sites: Mapping[str, Site], kinds: Sequence[str], held_out_tokens: Tensor) -> None:
    if not sites:
        raise ValueError("`sites` must name at least one site, got an empty mapping.")
    if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(KINDS):
        raise ValueError(f"`kinds` must name some of {', '.join(map(repr, KINDS))}, each once, got {kinds!r}.")
    if held_out_tokens.ndim != 2 or not len(held_out_tokens) or held_out_tokens.is_floating_point():
        raise ValueError(
            "`held_out_tokens` must be integer ids [n_sequences, n_positions], at least one sequence, got "
            f"{held_out_tokens.dtype} {tuple(held_out_tokens.shape)}."
        )


def _neurons(site: Site) -> tuple[Neurons | None, str | None]:
    """Returns the MLP's own neurons, or why they aren't known."""
    try:
        return site.neurons, None
    except ValueError as error:
        return None, str(error)


def _make(kind: Kind, site: Site, n_latents: int, recipe: Recipe, seed: int, place: dict[str, Any]) -> Dictionary:
    parts: dict[str, Any] = {
        "activation": recipe.activation,
        "decoder_norm": recipe.decoder_norm,
        "generator": torch.Generator().manual_seed(seed),
        **place,
    }
    if kind == "distiller":
        return SparseDistiller(site.d_in, site.d_out, n_latents, skip=recipe.skip, **parts)
    return SparseAutoencoder(site.d_out, n_latents, **parts)


def _train(
    made: Mapping[str, Mapping[str, Dictionary]],
    stream: ActivationStream,
    recipe: Recipe,
    n_tokens: int,
    **options: Any,
) -> dict[str, dict[str, History]]:
    """Trains all dictionaries in one pass; returns their histories by site and kind."""
    pairs = [(name, kind) for name, dictionaries in made.items() for kind in dictionaries]
    labels = {(name, kind): kind if len(made) == 1 else f"{name}/{kind}" for name, kind in pairs}
    how: dict[str, Any] = {"lr": recipe.lr, "schedule": recipe.schedule, "optimizer": recipe.optimizer}
    trainees = {
        labels[name, kind]: Trainee(made[name][kind], recipe.penalties, site=name, **how) for name, kind in pairs
    }
    n_steps = math.ceil(n_tokens / recipe.batch_size)
    # About a hundred records make a curve, however short the run is.
    histories = fit_many(trainees, stream, n_tokens=n_tokens, log_every=max(1, min(100, n_steps // 100)), **options)
    return {name: {kind: histories[labels[name, kind]] for kind in made[name]} for name in made}


def _firing(
    site: Site, dictionaries: Mapping[str, Dictionary], tokens: Tensor, inspection: Inspection
) -> dict[str, FiringFrequencies]:
    """Counts for all dictionaries in one pass."""
    counts: dict[str, Tensor | int] = dict.fromkeys(dictionaries, 0)
    n_left = inspection.n_firing_tokens
    # Small batches: what encoding one makes then stays in the processor's caches.
    for batch in ActivationStream(site, tokens, batch_size=COUNTED_AT_ONCE):
        for name, dictionary in dictionaries.items():
            counts[name] = counts[name] + firing_frequencies(dictionary, [batch], n_tokens=n_left).counts
        n_left -= min(n_left, batch.n_tokens)
        if n_left == 0:
            break
    n_seen = inspection.n_firing_tokens - n_left
    return {name: FiringFrequencies(torch.as_tensor(found), n_seen) for name, found in counts.items()}


def _inspect(
    site: Site,
    dictionary: Dictionary,
    firing: FiringFrequencies,
    tokens: Tensor,
    neurons: Neurons | None,
    inspection: Inspection,
    seed: int,
) -> dict[str, Any]:
    match = None if neurons is None else match_neurons(dictionary, neurons, seed=seed)
    types = None if match is None else latent_types(match, inspection.threshold, dead=firing.dead)
    evaluation = evaluate(site, dictionary, tokens, n_tokens=inspection.n_evaluation_tokens)
    shown = drawn(firing, None if types is None else types.sparse, inspection, seed)
    examples: dict[int, TopExamples] = {}
    if shown:
        searched = tokens[: math.ceil(inspection.n_example_tokens / tokens.shape[1])]
        examples = top_examples(site, dictionary, searched, latents=shown, n_examples=inspection.n_examples)
    return {"evaluation": evaluation, "match": match, "types": types, "examples": examples}
