"""`sparsedict demo`, the decomposition of an MLP of the embedded model, without network or data."""

from __future__ import annotations

import argparse

from torch import nn

from sparsedict import studies, zoo
from sparsedict.cli._model import choose_device
from sparsedict.cli._options import set_threads
from sparsedict.cli._run import (
    check_trackers,
    print_finished,
    run_folder,
    stop_message,
    training_options,
    write_results,
)
from sparsedict.pages import token_strings
from sparsedict.sites import Site

__all__ = ["run", "stop_message"]

EXPANSION = 4
BOS = 0
"""Id of the BOS token of the embedded model."""


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    with run_folder(args) as folder:
        if folder.is_finished():
            print_finished(folder)
            return
        set_threads(args)
        check_trackers(args)
        device = choose_device(args.device)
        tokenizer = zoo.load_tokenizer()
        model = nn.Module.to(zoo.load_model(), device)
        site = Site(model, f"transformer.h.{args.layer}.mlp", exclude_tokens=[BOS])
        train, held_out = zoo.tokens("train"), zoo.tokens("evaluation")
        options = training_options(args, folder)
        folder.begin()
        decomposition = studies.decompose(
            site,
            train,
            held_out,
            n_latents=EXPANSION * site.neurons.n,
            n_tokens=args.n_tokens,
            recipes=studies.DEMO,
            batch_size=studies.DEMO_BATCH_SIZE,
            model_name="the embedded model",
            seed=args.seed,
            **options,
        )
        write_results(folder, {site.name: decomposition}, token_strings(tokenizer), progress=not args.quiet)
