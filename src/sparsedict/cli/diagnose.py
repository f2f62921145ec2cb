"""`sparsedict diagnose`, the diagnosis of a site before a run, and of a dictionary after it."""

from __future__ import annotations

import argparse
from typing import Any

from sparsedict.analysis import diagnose
from sparsedict.batches import names_of
from sparsedict.cli._errors import translated_errors
from sparsedict.cli._model import DTYPES, choose_device, load_config, load_model
from sparsedict.cli._options import set_threads
from sparsedict.cli._sites import sites_of, warnings_of_sites
from sparsedict.cli._tokenizer import load_tokenizer
from sparsedict.cli._tokens import Corpus
from sparsedict.cli._train_options import CONTEXT
from sparsedict.dictionaries import Dictionary
from sparsedict.loading import load
from sparsedict.sites.models import check_ids

__all__ = ["run", "stop_message"]


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    set_threads(args)
    device = choose_device(args.device)
    config = load_config(args.model)
    rows = tokens_of(args, config, load_tokenizer(args.model))
    dictionary = _dictionary(args, device)
    model = load_model(args.model, device=device, dtype=DTYPES[args.dtype], progress=not args.quiet)
    with warnings_of_sites(set()):
        sites = sites_of(model, args.site, args.exclude_tokens)
    if dictionary is not None and len(sites) > 1:
        raise ValueError(f"--site must name one MLP with --dictionary, got {len(sites)}: {', '.join(sites)}.")
    batch_size = max(1, 2048 // rows.shape[1])
    for name, site in sites.items():
        print(name)
        print(diagnose(site, rows.to(device), dictionary, n_tokens=args.n_tokens, batch_size=batch_size))


def tokens_of(args: argparse.Namespace, config: Any, tokenizer: Any) -> Any:
    """Returns the tokens of the options."""
    longest = getattr(config, "max_position_embeddings", None) or CONTEXT
    context = args.context or min(CONTEXT, longest)
    if context > longest:
        raise ValueError(f"--context must be at most the model's {longest} positions, got {context}.")
    corpus = Corpus(
        tokenizer,
        context,
        args.text_column,
        args.split,
        args.n_tokens,
        config=args.config,
        cut=args.context is not None,
    )
    rows = corpus.read(args.data)
    if rows.shape[1] > longest:
        raise ValueError(
            f"--data must have sequences of at most {longest} tokens, the maximum of the model, got {rows.shape[1]}. "
            f"Split them with --context, such as --context {min(CONTEXT, longest)}."
        )
    check_ids(rows, getattr(config, "vocab_size", None), name="--data")
    return rows


def _dictionary(args: argparse.Namespace, device: Any) -> Dictionary | None:
    """Returns the dictionary of the options.

    Raises:
        ValueError: If it can't be loaded, or isn't a dictionary of one MLP.
    """
    if args.dictionary is None:
        return None
    with translated_errors(path="--dictionary"):
        dictionary = load(args.dictionary, device=device)
    points = dict.fromkeys((*names_of(dictionary.reads), *names_of(dictionary.writes)))
    others = [point for point in points if point not in ("inputs", "outputs")]
    if others:
        raise ValueError(
            "--dictionary must be a distiller or an autoencoder of the inputs and outputs of one MLP, got a "
            f"{type(dictionary).__name__} of {', '.join(map(repr, others))}."
        )
    return dictionary


def stop_message(args: argparse.Namespace) -> str:
    """Returns how to continue after an interruption."""
    return "nothing was written"
