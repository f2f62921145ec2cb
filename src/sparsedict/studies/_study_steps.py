"""The steps that `decompose_sites` and `decompose_jointly` share: checks, new dictionaries, training and examples."""

from __future__ import annotations

import math
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsedict.analysis import collect
from sparsedict.data import ActivationStream
from sparsedict.dictionaries import Dictionary
from sparsedict.pages import DictionaryFacts, gather
from sparsedict.parallel import Parallel
from sparsedict.progress import Phases
from sparsedict.sites import Neurons, Site, Sites
from sparsedict.studies._recipe import Inspection
from sparsedict.training import History, Recipe, Trainee, fit_many


def check_arguments(sites: Mapping[str, Site], recipes: Mapping[str, Recipe], held_out_tokens: Tensor) -> None:
    """Raises an error if there is no site or no recipe, or an argument has the wrong form."""
    if not sites:
        raise ValueError("`sites` must contain at least one site, got an empty mapping.")
    if not recipes:
        raise ValueError("`recipes` must contain at least one recipe, got an empty mapping. See `studies.recipes()`.")
    for name, recipe in recipes.items():
        if not isinstance(recipe, Recipe):
            raise TypeError(f"`recipes[{name!r}]` must be a Recipe(make, ...), got {type(recipe).__name__}.")
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(
                f"`recipes` must have names that are valid folder names, such as 'distiller', got {name!r}."
            )
    if held_out_tokens.ndim != 2 or not len(held_out_tokens) or held_out_tokens.is_floating_point():
        raise ValueError(
            "`held_out_tokens` must be integer ids [n_sequences, n_positions] of at least one sequence, got "
            f"{held_out_tokens.dtype} {tuple(held_out_tokens.shape)}."
        )


def neurons_of(site: Site) -> tuple[Neurons | None, str | None]:
    """Returns the neurons of the MLP, or the reason why they are unknown."""
    try:
        return site.neurons, None
    except ValueError as error:
        return None, str(error)


def new_trainee(
    recipe: Recipe,
    site: Site | Sites,
    n_latents: int | Mapping[str, int],
    name: str | None,
    seed: int,
    dtype: torch.dtype,
    device: torch.device | None,
) -> Trainee:
    """Constructs a dictionary by its recipe. Returns it with its training options.

    Args:
        recipe: The recipe.
        site: The site or sites of the dictionary.
        n_latents: Number of latents, or the number for each site by name.
        name: Name of the site in the training data, or ``None`` if the dictionary names its points.
        seed: Seed of the initial weights.
        dtype: Type of the weights.
        device: Device of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    trainee = recipe.trainee(site, n_latents, generator=generator, dtype=dtype, device=device)
    return replace(trainee, site=name)


def train(
    trainees: Mapping[str, Trainee],
    sites: Mapping[str, Site],
    tokens: Any,
    phases: Phases,
    harvest: Mapping[str, Any],
    run: Mapping[str, Any],
) -> tuple[ActivationStream, dict[str, History]]:
    """Trains dictionaries in one pass over the tokens. Returns the data and the histories.

    Args:
        trainees: The dictionaries and their training options, by name.
        sites: The sites of all dictionaries.
        tokens: Training tokens.
        phases: Prints the phase, and the parts of the dictionaries on each rank.
        harvest: Options of `ActivationStream`.
        run: Arguments of `fit_many`.
    """
    _print_ranks([trainee.dictionary for trainee in trainees.values()], run["parallel"], phases.shown)
    n_tokens: int = run["n_tokens"]
    with phases("training", f"harvesting and training on {n_tokens:,} tokens"):
        stream = ActivationStream(sites, tokens, **harvest)
        # A short run also gets about a hundred records, enough for a curve.
        log_every = max(1, min(100, math.ceil(n_tokens / stream.batch_size) // 100))
        return stream, fit_many(trainees, stream, **{"log_every": log_every, **run})


def latent_facts(
    site: Site | Sites, shown: Mapping[str, Any], tokens: Tensor, inspection: Inspection
) -> dict[str, DictionaryFacts]:
    """Returns the facts about the latents of dictionaries, and about neurons.

    Args:
        site: The site or sites of the dictionaries.
        shown: Dictionaries and neurons by name.
        tokens: Held-out tokens.
        inspection: Settings of the measurements.
    """
    records = collect(site, shown, tokens, n_tokens=inspection.n_firing_tokens, progress=False)
    return gather(site, shown, records, threshold=inspection.threshold)


def _print_ranks(dictionaries: Sequence[Dictionary], parallel: Parallel, verbose: bool) -> None:
    """Prints the parts of the dictionaries on each rank, before a run starts."""
    if parallel.n_ranks == 1:
        return
    devices = parallel.gather(f"{socket.gethostname()}, {dictionaries[0].decoder_bias.device}")
    if verbose:
        lines = [f"{type(dictionary).__name__}, {parallel.describe(dictionary)}" for dictionary in dictionaries]
        lines += [f"rank {rank}: {device}" for rank, device in enumerate(devices)]
        print(*lines, sep="\n", file=sys.stderr)
