"""`decompose` and `decompose_sites`, which train dictionaries of MLPs and measure their latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparsedict.analysis import FiringFrequencies, evaluate, latent_types, match_neurons
from sparsedict.dictionaries import Dictionary
from sparsedict.parallel import Alone, Parallel
from sparsedict.progress import Phases
from sparsedict.sites import Neurons, Site
from sparsedict.studies._decomposition import Decomposition
from sparsedict.studies._dictionary_result import DictionaryResult
from sparsedict.studies._recipe import BATCH_SIZE, RECIPES, Inspection
from sparsedict.studies._run_settings import used_settings
from sparsedict.studies._study_steps import check_arguments, latent_facts, neurons_of, new_trainee, train
from sparsedict.training import History, Recipe, Trainee

ALONE = Alone()
INSPECTION = Inspection()


def decompose(
    site: Site, train_tokens: Any, held_out_tokens: Tensor, *, n_latents: int, n_tokens: int, **options: Any
) -> Decomposition:
    """Trains a sparse distiller and an autoencoder of one MLP in one pass, and measures them.

    Args:
        site: The site of the MLP.
        train_tokens: Training tokens, in any form that an `ActivationStream` accepts.
        held_out_tokens: Token ids for the measurements, ``[n_sequences, n_positions]``, of other text than the training
            tokens. `sparsedict.data.pack` converts texts.
        n_latents: Number of latents of each dictionary.
        n_tokens: Number of training tokens. A shorter text is repeated.
        options: Other arguments of `decompose_sites`. Dictionaries are named by their recipe.

    Raises:
        ValueError: If there is no recipe, or the held-out tokens aren't rows of ids.
    """
    sites = {site.name: site}
    found = decompose_sites(sites, train_tokens, held_out_tokens, n_latents=n_latents, n_tokens=n_tokens, **options)
    return found[site.name]


def decompose_sites(
    sites: Mapping[str, Site],
    train_tokens: Any,
    held_out_tokens: Tensor,
    *,
    n_latents: int | Mapping[str, int],
    n_tokens: int,
    recipes: Mapping[str, Recipe] = RECIPES,
    batch_size: int = BATCH_SIZE,
    inspection: Inspection = INSPECTION,
    tokenizer: Any = None,
    context: int | None = None,
    model_name: str | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
    verbose: bool | None = None,
    parallel: Parallel = ALONE,
    **options: Any,
) -> dict[str, Decomposition]:
    """Trains dictionaries of several MLPs of one model in one pass, and measures them.

    The model runs once on the training tokens for all sites. All dictionaries are in memory at the same time.

    Args:
        sites: Sites of one model, by name.
        train_tokens: See `decompose`.
        held_out_tokens: See `decompose`.
        n_latents: Number of latents of each dictionary: one number, or a number for each site by name.
        n_tokens: See `decompose`.
        recipes: Recipes of the dictionaries, by a name such as ``"distiller"``; see `sparsedict.studies.recipes`. Each
            recipe constructs a dictionary for each site with
            ``make(site, n_latents, generator=..., dtype=..., device=...)``.
        batch_size: Number of tokens per step.
        inspection: Settings of the measurements.
        tokenizer: Tokenizer of training texts.
        context: Number of tokens per training sequence, for texts and for one long row of tokens.
        model_name: Name of the model in the results. By default the name in its configuration.
        seed: Seed of the initial weights and the order of the tokens.
        dtype: Type of the weights of the dictionaries.
        progress: Whether to show a progress bar on the standard error stream.
        verbose: Whether to print the name of each phase to the standard error stream. The default is ``progress``.
        parallel: The processes of the training, see `fit`. Rank 0 alone measures.
        options: Other arguments of `fit_many`, such as ``autocast``, ``callbacks``, ``checkpoint`` and ``resume``. With
            several sites, dictionaries are named ``SITE/RECIPE``.

    Returns:
        The results by site, for `write_sites`; nothing on other ranks than 0.

    Raises:
        ValueError: If there is no site or no recipe, a recipe name isn't a valid folder name, or the held-out tokens
            aren't rows of ids.
    """
    check_arguments(sites, recipes, held_out_tokens)
    phases = Phases((progress if verbose is None else verbose) and parallel.is_main)
    known = {name: neurons_of(site) for name, site in sites.items()}
    widths = n_latents if isinstance(n_latents, Mapping) else dict.fromkeys(sites, n_latents)
    # A dictionary that is divided among ranks may be too large for one of their devices.
    device = None if parallel.n_slices == 1 else torch.device("cpu")
    trainees = {name: _trainees(name, site, widths[name], recipes, seed, dtype, device) for name, site in sites.items()}
    labels = {(name, kind): kind if len(trainees) == 1 else f"{name}/{kind}" for name in trainees for kind in recipes}
    together = {label: trainees[name][kind] for (name, kind), label in labels.items()}
    harvest = {"batch_size": batch_size, "seed": seed, "dtype": dtype, "tokenizer": tokenizer, "context": context}
    run = {"n_tokens": n_tokens, "progress": progress, "parallel": parallel, **options}
    stream, trained = train(together, sites, train_tokens, phases, harvest, run)
    if not parallel.is_main:
        return {}
    about = {"model_name": model_name, "n_tokens": n_tokens, "seed": seed, "autocast": options.get("autocast")}
    found: dict[str, Decomposition] = {}
    for name, site in sites.items():
        own = phases.within(f"{name}: " if len(sites) > 1 else "")
        dictionaries = {kind: trainee.dictionary.to(site.device) for kind, trainee in trainees[name].items()}
        with own("reading", "collecting the activations of all latents on held-out tokens"):
            shown: dict[str, Any] = dict(dictionaries)
            if known[name][0] is not None:
                shown.setdefault("neurons", known[name][0])
            latents = latent_facts(site, shown, held_out_tokens, inspection)
        firing = {kind: latents[kind].records.firing for kind in dictionaries}
        measured = (held_out_tokens, known[name][0], inspection, seed, own)
        histories = {kind: trained[labels[name, kind]] for kind in recipes}
        results = _measure(site, dictionaries, histories, firing, *measured)
        settings = used_settings(site, results, stream, trainees[name], inspection, held_out_tokens, **about)
        for dictionary in dictionaries.values():
            dictionary.trained_on.update({key: settings[key] for key in ("model", "site", "left_out_tokens", "seed")})
        found[name] = Decomposition(results, settings, {**phases.seconds, **own.seconds}, latents, known[name][1])
    return found


def _measure(
    site: Site,
    dictionaries: Mapping[str, Dictionary],
    histories: Mapping[str, History],
    firing: Mapping[str, FiringFrequencies],
    tokens: Tensor,
    neurons: Neurons | None,
    inspection: Inspection,
    seed: int,
    phases: Phases,
) -> dict[str, DictionaryResult]:
    """Measures the dictionaries of one site on held-out tokens. Returns the results by kind."""
    results: dict[str, DictionaryResult] = {}
    for kind, dictionary in dictionaries.items():
        with phases(f"measuring the {kind}", f"measuring the {kind} on held-out tokens"):
            found = _inspect(site, dictionary, firing[kind], tokens, neurons, inspection, seed)
            results[kind] = DictionaryResult(dictionary, histories[kind], firing=firing[kind], **found)
    return results


def _trainees(
    name: str,
    site: Site,
    n_latents: int,
    recipes: Mapping[str, Recipe],
    seed: int,
    dtype: torch.dtype,
    device: torch.device | None,
) -> dict[str, Trainee]:
    """Constructs the dictionaries of one site. Returns their trainees by recipe."""
    where = device or site.device
    return {kind: new_trainee(recipe, site, n_latents, name, seed, dtype, where) for kind, recipe in recipes.items()}


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
    return {"evaluation": evaluation, "match": match, "types": types}
