"""`sparsedict demo`: the main job on the embedded model, without network or data."""

from __future__ import annotations

import argparse
from typing import Any

from sparsedict.cli._options import Formatter, add_machine, add_out, add_resume, count, set_threads
from sparsedict.cli._results import conclude
from sparsedict.cli._stopped import checkpoints, stopped

N_TOKENS = 1_500_000
N_LAYERS = 4
LAYER = 2
EXPANSION = 4
BOS = 0
"""The embedded model's."""

DESCRIPTION = """\
Takes one MLP of the embedded model apart: trains a sparse distiller (which computes what the MLP computes) and a
sparse autoencoder (which reproduces what it writes), at four times the MLP's width, on the source text of Python's
standard library; says how good each is, which latents copy one neuron, and which are dead; and writes figures and a
page of the texts on which some sparse latents are most active. Takes two to three minutes on two cores.
"""

EPILOG = """\
examples:
  sparsedict demo --out sparsedict-demo
  sparsedict demo --out first-layer --layer 0 --seed 1
  sparsedict demo --out short --n-tokens 200k
"""


def add(commands: Any) -> None:
    """Adds the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="take one MLP of the embedded model apart (needs no network)",
        usage="sparsedict demo --out FOLDER [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    add_out(parser.add_argument_group("what and where"))
    group = parser.add_argument_group("training")
    group.add_argument(
        "--layer", type=int, choices=range(N_LAYERS), default=LAYER, help=f"which MLP (default: {LAYER})"
    )
    group.add_argument(
        "--n-tokens", type=count, default=N_TOKENS, metavar="N", help=f"tokens to train on (default: {N_TOKENS:,})"
    )
    add_resume(add_machine(parser))
    parser.set_defaults(run=run, stopped=stopped)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from sparsedict import studies, zoo
    from sparsedict.pages import token_strings
    from sparsedict.sites import Site

    set_threads(args)
    studies.check_folder(args.out, force=args.force)
    folder = checkpoints(args)
    tokenizer = zoo.load_tokenizer()
    site = Site(zoo.load_model(), f"transformer.h.{args.layer}.mlp", exclude_tokens=[BOS])
    taken = studies.take_apart(
        site,
        zoo.tokens("train"),
        zoo.tokens("evaluation"),
        n_latents=EXPANSION * site.neurons.n,
        n_tokens=args.n_tokens,
        recipe=studies.DEMO,
        model_name="the embedded model",
        seed=args.seed,
        progress=not args.quiet,
        checkpoint=folder,
        resume=args.resume,
    )
    conclude(taken, args.out, token_strings(tokenizer), force=args.force)
