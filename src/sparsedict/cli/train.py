"""`sparsedict train`: the main job on a model and data that the user names."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from torch import Tensor

from sparsedict.activations import Activation, BatchTopK, JumpReLU, ReLU, TopK
from sparsedict.cli._model import DTYPES, load_model, load_tokenizer, special_tokens
from sparsedict.cli._options import Formatter, set_threads, share
from sparsedict.cli._results import conclude
from sparsedict.cli._stopped import checkpoints, stopped
from sparsedict.cli._tokens import Corpus, held_out_rows, vocabulary
from sparsedict.cli._train_options import CONTEXT, L0_COEFFICIENT, L1_COEFFICIENT, RECIPE, K, add_options
from sparsedict.penalties import L0, L1, Penalty
from sparsedict.sites import Site
from sparsedict.studies import Inspection, Recipe, check_folder, take_apart

INSPECTION = Inspection()

DESCRIPTION = """\
Takes one MLP of a language model apart: trains a sparse distiller (which computes what the MLP computes, from its
input) and a sparse autoencoder (which reproduces what it writes), both in one pass; measures them on text that was
held out; and writes dictionaries, numbers, figures and a page of top activating examples to a folder.
"""

EPILOG = """\
examples:
  A model from the hub on a data set from the hub, 16 million tokens, on a GPU:
    sparsedict train roneneldan/TinyStories-33M --site transformer.h.2.mlp \\
        --data roneneldan/TinyStories --n-tokens 16M --device cuda --out tinystories-2

  A local model on local text, one dictionary, a sparser one with eight times as many latents as neurons:
    sparsedict train ./my-model --site model.layers.3.mlp --data ./texts --kind distiller \\
        --expansion 8 --k 16 --out layer-3

  A model without a tokenizer, on token ids; its vocabulary makes the examples readable:
    sparsedict train stories260K --site model.layers.2.mlp --data stories-train-tokens.npy \\
        --vocabulary tok512-vocab.json --out stories

  A run that was stopped, by Ctrl-C or otherwise, goes on by the same command and one word more:
    sparsedict train stories260K --site model.layers.2.mlp --data stories-train-tokens.npy \\
        --vocabulary tok512-vocab.json --out stories --resume
"""


def add(commands: Any) -> None:
    """Adds the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        help="take an MLP of your own model apart, on your own data",
        usage="sparsedict train MODEL --site PATH --data DATA --out FOLDER [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    add_options(parser)
    parser.set_defaults(run=run, stopped=stopped)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from sparsedict.pages import token_strings

    recipe = recipe_of(args)
    check_folder(args.out, force=args.force)
    folder = checkpoints(args)
    set_threads(args)
    strings = None if args.vocabulary is None else vocabulary(args.vocabulary)
    model = load_model(args.model, device=args.device, dtype=DTYPES[args.dtype], progress=not args.quiet)
    tokenizer = load_tokenizer(args.model)
    excluded = special_tokens(model, tokenizer) if args.exclude_tokens is None else args.exclude_tokens
    site = Site(model, args.site, exclude_tokens=excluded)
    train, held_out = _tokens(args, model, tokenizer)
    taken = take_apart(
        site,
        train,
        held_out,
        n_latents=_n_latents(args, site),
        n_tokens=args.n_tokens,
        recipe=recipe,
        kinds=("distiller", "autoencoder") if args.kind == "both" else (args.kind,),
        model_name=args.model,
        seed=args.seed,
        progress=not args.quiet,
        checkpoint=folder,
        resume=args.resume,
    )
    conclude(taken, args.out, token_strings(tokenizer if strings is None else strings), force=args.force)


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Returns the recipe that the options ask for.

    Raises:
        ValueError: If options don't go together.
    """
    for option, kinds in (("k", ("topk", "batchtopk")), ("l1", ("relu",)), ("l0", ("jumprelu",))):
        if getattr(args, option) is not None and args.activation not in kinds:
            raise ValueError(f"--{option} goes with --activation {' or '.join(kinds)}, got {args.activation}.")
    if args.skip and args.kind == "autoencoder":
        raise ValueError("--skip is for a distiller, got --kind autoencoder.")
    parts: dict[str, tuple[Activation, tuple[Penalty, ...]]] = {
        "topk": (TopK(args.k or K), RECIPE.penalties),
        "batchtopk": (BatchTopK(args.k or K), RECIPE.penalties),
        "relu": (ReLU(), (L1(L1_COEFFICIENT if args.l1 is None else args.l1),)),
        "jumprelu": (JumpReLU(), (L0(L0_COEFFICIENT if args.l0 is None else args.l0),)),
    }
    activation, penalties = parts[args.activation]
    return dataclasses.replace(
        RECIPE, activation=activation, penalties=penalties, lr=args.lr, batch_size=args.batch_size, skip=args.skip
    )


def _tokens(args: argparse.Namespace, model: Any, tokenizer: Any) -> tuple[Tensor, Tensor]:
    longest = getattr(model.config, "max_position_embeddings", None) or CONTEXT
    context = args.context or min(CONTEXT, longest)
    if context > longest:
        raise ValueError(f"--context must be at most the model's {longest} positions, got {context}.")
    n_wanted = args.n_tokens + INSPECTION.n_firing_tokens
    corpus = Corpus(
        tokenizer, context, args.text_column, args.split, n_wanted, config=args.config, bos=args.bos, join=args.join
    )
    rows = corpus.read(args.data)
    if rows.shape[1] > longest:
        raise ValueError(f"--data must hold sequences of at most the model's {longest} tokens, got {rows.shape[1]}.")
    try:
        part = float(args.held_out)
    except ValueError:
        return rows, corpus.read(args.held_out, "--held-out")
    return held_out_rows(rows, share(args.held_out) if 0 < part < 1 else _no_share(args.held_out))


def _no_share(text: str) -> float:
    raise ValueError(f"--held-out must be a share between 0 and 1, or data, got {text!r}.")


def _n_latents(args: argparse.Namespace, site: Site) -> int:
    if args.n_latents is not None:
        return args.n_latents
    try:
        n_neurons = site.neurons.n
    except ValueError as error:
        raise ValueError(f"--n-latents must be given, for the MLP's neurons can't be counted: {error}") from error
    n_latents = round(args.expansion * n_neurons)
    if n_latents < 1:
        raise ValueError(f"--expansion must be positive, got {args.expansion:g}.")
    return n_latents
