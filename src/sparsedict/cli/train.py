"""`sparsedict train`, the decomposition of MLPs of a given model with given data."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from sparsedict import checks
from sparsedict.activations import Activation, BatchTopK, JumpReLU, ReLU, TopK
from sparsedict.cli import _ranks
from sparsedict.cli._data_name import overlap
from sparsedict.cli._errors import translated_errors
from sparsedict.cli._model import DTYPES, choose_device, load_config, load_model, meta_model
from sparsedict.cli._options import set_threads, share
from sparsedict.cli._run import (
    check_trackers,
    print_finished,
    run_folder,
    stop_message,
    training_options,
    write_results,
)
from sparsedict.cli._sites import in_model_order, n_neurons, sites_of, warnings_of_sites
from sparsedict.cli._tokenizer import load_tokenizer, set_mask_token, special_tokens
from sparsedict.cli._tokens import Corpus, held_out_rows
from sparsedict.cli._train_options import CONTEXT, L1_COEFFICIENT, K
from sparsedict.cli._vocabulary import vocabulary
from sparsedict.pages import token_strings
from sparsedict.parallel import Alone, DataParallel, Parallel
from sparsedict.penalties import L0, L1, Penalty, Relative, TargetL0
from sparsedict.sites import Site
from sparsedict.sites.models import check_ids
from sparsedict.studies import BOTH, KINDS, Inspection, Kind, RunFolder, decompose_jointly, decompose_sites, recipes
from sparsedict.training import Recipe, ShardedLatents

__all__ = ["run", "stop_message"]

INSPECTION = Inspection()


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    parallel = parallel_of_environment(args.latent_ranks)
    with parallel.running(), ExitStack() as stack:
        found = recipes_of(args)
        # Other ranks neither lock nor write the folder.
        folder = run_folder(args)
        is_finished = parallel.on_main(lambda: stack.enter_context(folder).is_finished())
        if not parallel.share(is_finished):
            _train(args, found, folder, parallel)
        elif parallel.is_main:
            print_finished(folder)


def parallel_of_environment(n_slices: int = 1) -> Parallel:
    """Returns the processes that ``torchrun`` started; one process if the command was started by itself.

    Args:
        n_slices: Number of processes that share the latents.

    Raises:
        ValueError: If the number of processes isn't a multiple of ``n_slices``.
    """
    n_ranks = _ranks.n_ranks()
    if n_ranks % n_slices:
        raise ValueError(
            f"--latent-ranks must divide the number of processes that torchrun starts, {n_ranks}, got {n_slices}. "
            f"Start the command by `torchrun --nproc-per-node {n_slices} -m sparsedict train ...`."
        )
    if n_ranks == 1:
        return Alone()
    return DataParallel.from_environment() if n_slices == 1 else ShardedLatents.from_environment(n_slices)


def _train(args: argparse.Namespace, recipes: Mapping[str, Recipe], folder: RunFolder, parallel: Parallel) -> None:
    """Trains and measures dictionaries. Options are checked before the weights of the model are loaded if possible."""
    set_threads(args)
    args.quiet = args.quiet or not parallel.is_main
    check_trackers(args)
    strings = None if args.vocabulary is None else vocabulary(args.vocabulary)
    device = choose_device(args.device, verbose=parallel.is_main)
    config = load_config(args.model)
    tokenizer = load_tokenizer(args.model)
    excluded = special_tokens(config, tokenizer) if args.exclude_tokens is None else args.exclude_tokens
    _check_excluded(excluded, getattr(config, "vocab_size", None))
    bare, seen = meta_model(config), set[str]()
    if bare is not None:
        with warnings_of_sites(seen):
            _n_latents(args, sites_of(bare, args.site, excluded), is_loaded=False)
    train, held_out = tokens_of(args, config, tokenizer)
    model = load_model(args.model, device=device, dtype=DTYPES[args.dtype], progress=not args.quiet)
    set_mask_token(model, tokenizer)
    with warnings_of_sites(seen):
        sites = sites_of(model, args.site, excluded)
        # The latents of a cross-layer dictionary write to later layers.
        sites = in_model_order(sites) if is_joint(args.kind) else sites
        n_latents = _n_latents(args, sites)
    if is_joint(args.kind):
        recipes = recipes_of(args, len(sites))
    options = training_options(args, folder, parallel)
    parallel.on_main(folder.begin)
    how: dict[str, Any] = {"n_tokens": args.n_tokens, "batch_size": args.batch_size, "seed": args.seed, **options}
    decompose = decompose_jointly if is_joint(args.kind) else decompose_sites
    found = decompose(sites, train, held_out, n_latents=n_latents, recipes=recipes, model_name=args.model, **how)
    if found is None or not parallel.is_main:
        return
    write_results(folder, found, token_strings(tokenizer if strings is None else strings), progress=not args.quiet)


def recipes_of(args: argparse.Namespace, n_sites: int = 1) -> dict[str, Recipe]:
    """Returns the recipes of the options.

    Args:
        args: The options.
        n_sites: Number of sites of each dictionary.

    Raises:
        ValueError: If options are incompatible.
    """
    for option, kinds in (("k", ("topk", "batchtopk", "jumprelu")), ("l1", ("relu",)), ("l0", ("jumprelu",))):
        if getattr(args, option) is not None and args.activation not in kinds:
            raise ValueError(f"--{option} requires --activation {' or '.join(kinds)}, got {args.activation}.")
    if args.k is not None and args.l0 is not None:
        raise ValueError("--k and --l0 can't be used together: --k sets the number of active latents, --l0 its cost.")
    kinds = kinds_of(args.kind)
    if args.skip and not any(kind.has_skip for kind in kinds):
        raise ValueError(f"--skip requires a distiller, got --kind {args.kind}.")
    k = args.k or K
    total = k * n_sites if any(kind.has_k_per_site for kind in kinds) else k
    with translated_errors(coefficient="--l1" if args.activation == "relu" else "--l0", lr="--lr"):
        parts: dict[str, tuple[Activation, list[Penalty] | None]] = {
            "topk": (TopK(k), None),
            "batchtopk": (BatchTopK(k), None),
            "relu": (ReLU(), [Relative(L1(L1_COEFFICIENT if args.l1 is None else args.l1))]),
            "jumprelu": (JumpReLU(), [TargetL0(total) if args.l0 is None else L0(args.l0)]),
        }
        activation, penalties = parts[args.activation]
        own: dict[str, Any] = {} if penalties is None else {"penalties": penalties, "step_hooks": ()}
        if args.lr is not None:
            own["lr"] = args.lr
        return recipes(activation, skip=args.skip, kinds=[kind.name for kind in kinds], **own)


def kinds_of(name: str) -> list[Kind]:
    """Returns the kinds of dictionaries of the option ``--kind``."""
    return [KINDS[own] for own in (BOTH if name == "both" else (name,))]


def is_joint(name: str) -> bool:
    """Returns whether the dictionaries of the option ``--kind`` have all sites."""
    return all(kind.is_joint for kind in kinds_of(name))


def tokens_of(args: argparse.Namespace, config: Any, tokenizer: Any, *, strict: bool = True) -> tuple[Tensor, Tensor]:
    """Returns the training tokens and the held-out tokens of the options.

    Args:
        args: The options.
        config: Configuration of the model.
        tokenizer: Tokenizer of the model, or ``None`` if it has none.
        strict: Whether options that have no effect on the data are errors.
    """
    longest = getattr(config, "max_position_embeddings", None) or CONTEXT
    context = args.context or min(CONTEXT, longest)
    if context > longest:
        raise ValueError(f"--context must be at most the model's {longest} positions, got {context}.")
    n_wanted = args.n_tokens + INSPECTION.n_firing_tokens
    how: dict[str, Any] = {"config": args.config, "bos": args.bos, "join": args.join, "cut": args.context is not None}
    how["strict"] = strict
    corpus = Corpus(tokenizer, context, args.text_column, args.split, n_wanted, **how)
    is_share = _is_share(args.held_out)
    rows = _checked(corpus.read(args.data), "--data", longest, config)
    if not is_share:
        if strict and overlap(args.data, args.held_out, args.config, args.split):
            checks.warn(
                f"--held-out {args.held_out!r} has data of --data {args.data!r}, so the measurements are on training "
                "data. Omit --held-out to hold out a share of the data."
            )
        return rows, _checked(corpus.read(args.held_out, "--held-out"), "--held-out", longest, config)
    return held_out_rows(rows, share(args.held_out))


def _is_share(text: str) -> bool:
    """Returns whether the value of ``--held-out`` is a share of the data, and not other data."""
    try:
        part = float(text)
    except ValueError:
        return False
    if not 0 < part < 1:
        raise ValueError(f"--held-out must be a share between 0 and 1, or data, got {text!r}.")
    return True


def _checked(rows: Tensor, option: str, longest: int, config: Any) -> Tensor:
    if rows.shape[1] > longest:
        raise ValueError(
            f"{option} must have sequences of at most {longest} tokens, the maximum of the model, got "
            f"{rows.shape[1]} tokens. Split them with --context, such as --context {min(CONTEXT, longest)}."
        )
    check_ids(rows, getattr(config, "vocab_size", None), name=option)
    return rows


def _check_excluded(ids: Sequence[int], n_vocabulary: int | None) -> None:
    wrong = [index for index in ids if index < 0 or (n_vocabulary is not None and index >= n_vocabulary)]
    if wrong:
        known = "non-negative ids" if n_vocabulary is None else f"ids of the model, from 0 to {n_vocabulary - 1}"
        raise ValueError(f"--exclude-tokens must be {known}, got {', '.join(map(str, wrong))}.")


def _n_latents(args: argparse.Namespace, sites: Mapping[str, Site], *, is_loaded: bool = True) -> dict[str, int]:
    """Returns the number of latents of the dictionaries of each site.

    Args:
        args: The options.
        sites: Sites by name.
        is_loaded: Whether the weights of the model are loaded.

    Raises:
        ValueError: If the number is unknown, or smaller than ``--k``, or there are too few sites.
    """
    if is_joint(args.kind) and len(sites) < 2:
        raise ValueError(
            f"--kind {args.kind} requires several sites, got --site {next(iter(sites), '')}. Pass a list or a pattern, "
            "such as --site 'model.layers.*.mlp', or train with --kind distiller."
        )
    n_latents: dict[str, int] = {}
    for name, site in sites.items():
        n = None if args.n_latents else n_neurons(site, is_loaded=is_loaded)
        if args.n_latents or n is not None:
            n_latents[name] = args.n_latents or max(1, round(args.expansion * (n or 0)))
    for kind in kinds_of(args.kind):
        n_latents = kind.n_latents(n_latents)
    given = "--n-latents" if args.n_latents else "--expansion"
    least = min(n_latents.values(), default=2**63)
    k = args.k or K
    has_k = args.activation in ("topk", "batchtopk") or (args.activation == "jumprelu" and args.l0 is None)
    if has_k and k > least:
        raise ValueError(f"--k must be at most the number of latents, {least} (see {given}), got {k}.")
    return n_latents
