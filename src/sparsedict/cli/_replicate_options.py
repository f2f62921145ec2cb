"""The options of `sparsedict replicate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sparsedict.cli._options import Formatter, add_machine, add_out, count

ZOO = "zoo"
STUDIES = (
    "neuron-simulators",
    "l1-sweep",
    "first-latents",
    "same-neuron",
    "one-neuron",
    "uneven-inputs",
    "gelu-student",
    "loss-by-layer",
    "residual-stream",
    "two-dictionaries",
    "simulators-followed",
    "wider-students",
    "sparse-decoders",
    "equal-sparsity",
    "every-layer",
)
"""Names of the studies, in the order of the page."""

DESCRIPTION = """\
Runs every result of the report that this library began with, and its open questions, on one model, and writes a folder
with one page that holds each claim beside what was measured, all figures as PNG and SVG, and all numbers as JSON. On
the embedded model it takes at most 25 minutes on two cores, with --quick at most 4. A run that was stopped goes on
where it was when the same command is given again.
"""

EPILOG = """\
examples:
  sparsedict replicate --out replication
  sparsedict replicate --out quick --quick
  sparsedict replicate --out sweep --studies l1-sweep equal-sparsity --seed 1

  The report's own setting (its tokens, width, optimiser; days on a GPU, less with fewer tokens):
    sparsedict replicate --model roneneldan/TinyStories-2Layers-33M --data roneneldan/TinyStories \\
        --device cuda --out report

  Another model in minutes, here a Llama without a tokenizer, on token ids:
    sparsedict replicate --model stories260K --path model.layers.{}.mlp --data stories-train-tokens.npy \\
        --vocabulary tok512-vocab.json --quick --out stories
"""


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "replicate",
        help="run the report's figures and tables, and its open questions",
        usage="sparsedict replicate --out FOLDER [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    group = parser.add_argument_group("what and where")
    add_out(group, force="begin anew in a FOLDER with a run of other settings")
    group.add_argument(
        "--studies",
        nargs="+",
        choices=STUDIES,
        metavar="NAME",
        help=f"which (default: all): {', '.join(STUDIES)}",
    )
    group.add_argument("--quick", action="store_true", help="few tokens: directions, not numbers")
    _add_model(parser)
    add_machine(parser, device="the GPU where there is one; the CPU for zoo")
    parser.set_defaults(command="replicate")
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("another model, in the report's setting unless --quick is given")
    group.add_argument("--model", default=ZOO, metavar="MODEL", help="a folder, or a name on the hub (default: zoo)")
    group.add_argument("--data", metavar="DATA", help="as for `sparsedict train`")
    group.add_argument(
        "--path",
        default="transformer.h.{}.mlp",
        metavar="PATH",
        help="of the MLP in each layer, {} for its number (default: transformer.h.{}.mlp)",
    )
    group.add_argument(
        "--n-tokens", type=count, metavar="N", help="tokens for each of the report's students instead of its 4 billion"
    )
    group.add_argument(
        "--text-column", default="text", metavar="NAME", help="column or .jsonl field with the text (default: text)"
    )
    group.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="JSON with the strings of the tokens, for the examples, where the model has no tokenizer",
    )
