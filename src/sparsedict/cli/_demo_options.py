"""The options of `sparsedict demo`."""

from __future__ import annotations

import argparse
from typing import Any

from sparsedict.cli._options import Formatter, add_checkpoints, add_machine, add_out, add_trackers, count

N_TOKENS = 1_500_000
N_LAYERS = 4
LAYER = 2

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


def add(commands: Any) -> argparse.ArgumentParser:
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
    run = add_machine(parser)
    add_checkpoints(run)
    add_trackers(run)
    parser.set_defaults(command="demo")
    return parser
