"""The main job: one MLP, a distiller and an autoencoder of it, and what their latents are."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
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
from sparsedict.sites import Neurons, Site
from sparsedict.studies._phases import Phases
from sparsedict.studies._recipe import Inspection, Recipe
from sparsedict.studies._taken_apart import DictionaryResult, TakenApart
from sparsedict.training import History, Trainee, fit_many

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
    checkpoint: str | os.PathLike[str] | None = None,
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
        progress: Whether to show progress on the standard error stream.
        checkpoint: Folder for checkpoints of the training, as for `fit`; none by default.
        resume: Whether to go on from the newest of them, or begin where there is none.

    Raises:
        ValueError: If there is no kind to train, or the held-out tokens aren't rows of ids.
    """
    _check(kinds, held_out_tokens)
    phases = Phases(progress)
    place = {"dtype": dtype, "device": site.device}
    neurons, note = _neurons(site)
    dictionaries = {kind: _make(kind, site, n_latents, recipe, seed, place) for kind in kinds}
    with phases("training", f"harvesting and training on {n_tokens:,} tokens"):
        stream = ActivationStream(
            site,
            train_tokens,
            batch_size=recipe.batch_size,
            seed=seed,
            tokenizer=tokenizer,
            context=context,
            dtype=dtype,
        )
        stops: dict[str, Any] = {"checkpoint": checkpoint, "resume": resume}
        histories = _train(dictionaries, stream, recipe, n_tokens, progress=progress, **stops)
    with phases("counting", "counting on which held-out tokens each latent fires"):
        firing = _firing(site, dictionaries, held_out_tokens, inspection)
    results: dict[str, DictionaryResult] = {}
    for kind, dictionary in dictionaries.items():
        with phases(f"measuring the {kind}", f"measuring the {kind} on held-out tokens"):
            found = _inspect(site, dictionary, firing[kind], held_out_tokens, neurons, inspection, seed)
            results[kind] = DictionaryResult(dictionary, histories[kind], firing=firing[kind], **found)
    run = {"n_latents": n_latents, "n_tokens": n_tokens, "seed": seed, "dtype": str(dtype).removeprefix("torch.")}
    settings = _settings(site, model_name, recipe, inspection, run)
    for dictionary in dictionaries.values():
        dictionary.trained_on.update({name: settings[name] for name in ("model", "site", "left_out_tokens", "seed")})
    return TakenApart(results, settings, phases.seconds, note)


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


def _check(kinds: Sequence[str], held_out_tokens: Tensor) -> None:
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
    dictionaries: Mapping[str, Dictionary], stream: ActivationStream, recipe: Recipe, n_tokens: int, **options: Any
) -> dict[str, History]:
    trainees = {
        kind: Trainee(dictionary, recipe.penalties, lr=recipe.lr, schedule=recipe.schedule, optimizer=recipe.optimizer)
        for kind, dictionary in dictionaries.items()
    }
    n_steps = math.ceil(n_tokens / recipe.batch_size)
    # About a hundred records make a curve, however short the run is.
    return fit_many(trainees, stream, n_tokens=n_tokens, log_every=max(1, min(100, n_steps // 100)), **options)


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
        n_left -= min(n_left, len(batch))
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


def _settings(
    site: Site, model_name: str | None, recipe: Recipe, inspection: Inspection, run: dict[str, Any]
) -> dict[str, Any]:
    config = getattr(site.model, "config", None)
    return {
        "model": model_name or getattr(config, "name_or_path", "") or type(site.model).__name__,
        "site": site.name,
        "left_out_tokens": list(site.exclusion.tokens),
        **run,
        "recipe": recipe.to_dict(),
        "inspection": inspection.to_dict(),
    }
