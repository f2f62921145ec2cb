"""`decompose_jointly`, which trains dictionaries over several MLPs, and measures them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparsedict.analysis import evaluate
from sparsedict.parallel import Alone, Parallel
from sparsedict.progress import Phases
from sparsedict.sites import Site, Sites
from sparsedict.studies._joint_decomposition import JointDecomposition, JointResult
from sparsedict.studies._recipe import BATCH_SIZE, Inspection, recipes
from sparsedict.studies._run_settings import used_settings
from sparsedict.studies._study_steps import check_arguments, latent_facts, neurons_of, new_trainee, train
from sparsedict.training import Recipe

ALONE = Alone()
INSPECTION = Inspection()
RECIPES = recipes(kinds=["cross-layer"])


def decompose_jointly(
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
) -> JointDecomposition | None:
    """Trains dictionaries over all MLPs, such as a cross-layer distiller, and measures them.

    Args:
        sites: Sites of one model, by name, in the order of the model.
        train_tokens: See `decompose`.
        held_out_tokens: See `decompose`.
        n_latents: Number of latents of each layer: one number, or a number for each site by name. It is the number of
            latents of a crosscoder, whose latents belong to all layers.
        n_tokens: See `decompose`.
        recipes: Recipes of the dictionaries, by name; see `sparsedict.studies.recipes` with the kinds ``"cross-layer"``
            and ``"crosscoder"``. Each recipe constructs one dictionary with
            ``make(sites, n_latents, generator=..., dtype=..., device=...)``, where ``n_latents`` is a mapping.
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
        options: Other arguments of `fit_many`, such as ``autocast``, ``callbacks``, ``checkpoint`` and ``resume``.

    Returns:
        The results, or ``None`` on other ranks than 0.

    Raises:
        ValueError: If there are fewer than two sites or no recipe, a recipe name isn't a valid folder name, or the
            held-out tokens aren't rows of ids.

    Example:
        >>> import sparsedict as sd
        >>> from sparsedict import studies
        >>> model = sd.zoo.load_model()
        >>> sites = {str(i): sd.Site(model, f"transformer.h.{i}.mlp", exclude_tokens=[0]) for i in (2, 3)}
        >>> tokens = sd.zoo.tokens("train", n_tokens=4_000), sd.zoo.tokens("evaluation", n_tokens=1_000)
        >>> recipes = studies.recipes(sd.TopK(8), kinds=["cross-layer"])
        >>> options = {"n_latents": 64, "n_tokens": 2_000, "recipes": recipes, "progress": False}
        >>> found = studies.decompose_jointly(sites, *tokens, **options)
        >>> list(found.results["cross-layer"].evaluation.sites)
        ['2', '3']
    """
    check_arguments(sites, recipes, held_out_tokens)
    if len(sites) < 2:
        raise ValueError(f"`sites` must contain at least two sites, got {len(sites)}. Use `decompose` for one site.")
    phases = Phases((progress if verbose is None else verbose) and parallel.is_main)
    together = Sites(sites)
    widths = dict(n_latents) if isinstance(n_latents, Mapping) else dict.fromkeys(sites, n_latents)
    # A dictionary that is divided among ranks may be too large for one of their devices.
    own_device = next(iter(sites.values())).device
    device = own_device if parallel.n_slices == 1 else torch.device("cpu")
    new = {"name": None, "seed": seed, "dtype": dtype, "device": device}
    trainees = {name: new_trainee(recipe, together, widths, **new) for name, recipe in recipes.items()}
    harvest = {"batch_size": batch_size, "seed": seed, "dtype": dtype, "tokenizer": tokenizer, "context": context}
    run = {"n_tokens": n_tokens, "progress": progress, "parallel": parallel, **options}
    stream, histories = train(trainees, together, train_tokens, phases, harvest, run)
    if not parallel.is_main:
        return None
    dictionaries = {name: trainee.dictionary.to(own_device) for name, trainee in trainees.items()}
    with phases("reading", "collecting the activations of all latents on held-out tokens"):
        latents = latent_facts(together, {**dictionaries, **_neurons(together)}, held_out_tokens, inspection)
    results: dict[str, JointResult] = {}
    for name, dictionary in dictionaries.items():
        with phases(f"measuring the {name}", f"measuring the {name} dictionary on held-out tokens"):
            evaluation = evaluate(together, dictionary, held_out_tokens, n_tokens=inspection.n_evaluation_tokens)
        results[name] = JointResult(dictionary, histories[name], evaluation, latents[name].records.firing)
    about = {"model_name": model_name, "n_tokens": n_tokens, "seed": seed, "autocast": options.get("autocast")}
    settings = used_settings(together, results, stream, trainees, inspection, held_out_tokens, **about)
    for dictionary in dictionaries.values():
        dictionary.trained_on.update({key: settings[key] for key in ("model", "sites", "left_out_tokens", "seed")})
    return JointDecomposition(results, settings, phases.seconds, latents)


def _neurons(sites: Sites) -> dict[str, Any]:
    """Returns the neurons of the MLPs that have some, by site."""
    known = {name: neurons_of(site)[0] for name, site in sites.items()}
    return {name: {"neurons": neurons} for name, neurons in known.items() if neurons is not None}
