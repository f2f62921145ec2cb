"""The options of `sparsedict demo`."""

from __future__ import annotations

import argparse
from typing import Any

from sparsedict.cli._options import add_checkpoints, add_command, add_machine, add_out, add_trackers, count

N_TOKENS = 1_500_000
N_LAYERS = 4
LAYER = 2

DESCRIPTION = """\
Decomposes one MLP of the embedded model. Trains a sparse distiller (which reproduces the MLP's output from its input)
and a sparse autoencoder (which reproduces the MLP's output) with four times the width of the MLP, on the source code of
Python's standard library. Measures both dictionaries, including the latents that copy a neuron and the latents that
never fire. Writes figures and pages of all latents. Takes two to three minutes on two cores.
"""

EPILOG = """\
examples:
  sparsedict demo --out sparsedict-demo
  sparsedict demo --out first-layer --layer 0 --seed 1
  sparsedict demo --out short --n-tokens 200k
"""


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to a parser."""
    parser = add_command(
        commands,
        "demo",
        help="decompose one MLP of the embedded model (needs no network)",
        usage="--out FOLDER [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    add_out(parser.add_argument_group("output"))
    group = parser.add_argument_group("training")
    group.add_argument(
        "--layer", type=int, choices=range(N_LAYERS), default=LAYER, help=f"layer of the MLP (default: {LAYER})"
    )
    group.add_argument(
        "--n-tokens",
        type=count,
        default=N_TOKENS,
        metavar="N",
        help=f"number of training tokens (default: {N_TOKENS:,})",
    )
    run = add_machine(parser)
    add_checkpoints(run)
    add_trackers(run)
    return parser
