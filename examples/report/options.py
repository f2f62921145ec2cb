"""The options of ``python -m examples.report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparsedict import __version__

from .studies import STUDIES

ZOO = "zoo"
NAMES = [study.name for study in STUDIES]

DESCRIPTION = """\
Runs every result of the report that this library began with, and its open questions, on one model, and writes a folder
with one page that holds each claim beside what was measured, all figures as PNG and SVG, and all numbers as JSON. On
the embedded model it takes at most 25 minutes on two cores, with --quick at most 4. The same command resumes a run
that was stopped.
"""

EPILOG = """\
examples:
  python -m examples.report --out replication
  python -m examples.report --out quick --quick
  python -m examples.report --out sweep --studies l1-sweep equal-sparsity --seed 1

  The report's own setting (its tokens, width, optimiser; days on a GPU, less with fewer tokens):
    python -m examples.report --model roneneldan/TinyStories-2Layers-33M --data roneneldan/TinyStories \\
        --device cuda --out report

  Another model in minutes, here a Llama without a tokenizer, on token ids:
    python -m examples.report --model stories260K --path model.layers.{}.mlp --data stories-train-tokens.npy \\
        --vocabulary tok512-vocab.json --quick --out stories
"""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the examples, at a width that fits any terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=100)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.report", description=DESCRIPTION, epilog=EPILOG, formatter_class=Formatter
    )
    parser.add_argument("--version", action="version", version=f"sparsedict {__version__}")
    group = parser.add_argument_group("what and where")
    group.add_argument(
        "--out", type=_folder, required=True, metavar="FOLDER", help="where the results go: a new or empty folder"
    )
    group.add_argument(
        "--force",
        action="store_true",
        help="begin anew in a FOLDER with a run of other settings; other files in FOLDER stay unless names collide",
    )
    group.add_argument(
        "--studies", nargs="+", choices=NAMES, metavar="NAME", help=f"which (default: all): {', '.join(NAMES)}"
    )
    group.add_argument("--quick", action="store_true", help="few tokens: directions, not numbers")
    _add_model(parser)
    _add_machine(parser)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("another model, in the report's setting unless --quick is given")
    group.add_argument("--model", default=ZOO, metavar="MODEL", help="a folder, or a name on the hub (default: zoo)")
    group.add_argument(
        "--data",
        metavar="DATA",
        help="a file with token ids (.npy) or texts (.txt, .jsonl, .json, .csv, .parquet), or a dataset on the hub "
        "(NAME or NAME:CONFIG:SPLIT)",
    )
    group.add_argument(
        "--path",
        default="transformer.h.{}.mlp",
        metavar="PATH",
        help="of the MLP in each layer, {} for its number (default: transformer.h.{}.mlp)",
    )
    group.add_argument(
        "--n-tokens", type=_count, metavar="N", help="tokens for each of the report's students instead of its 4 billion"
    )
    group.add_argument(
        "--text-column", default="text", metavar="NAME", help="column or field with the text (default: text)"
    )
    group.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="JSON with the strings of the tokens, for the examples, where the model has no tokenizer",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the run")
    group.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="of weights, shuffle and latents shown (default: 0)"
    )
    group.add_argument("--threads", type=_count, metavar="N", help="CPU threads (default: as PyTorch chooses)")
    group.add_argument(
        "--device",
        metavar="NAME",
        help="such as cpu, cuda, cuda:1, mps (default: the GPU where there is one; the CPU for zoo)",
    )
    group.add_argument("--quiet", action="store_true", help="no progress bars; messages and errors stay")
    group.add_argument("--traceback", action="store_true", help="show the traceback of an error")


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"must name a folder, got {text!r}")
    return Path(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2**63 - 1, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    """Reads a positive whole number; ``2_000_000``, ``2e6`` and ``2M`` are the same."""
    plain = text.strip().replace("_", "").replace(",", "").lower()
    scale = {"k": 1e3, "m": 1e6, "b": 1e9}.get(plain[-1:], 1.0)
    try:
        value = float(plain[:-1] if scale > 1 else plain) * scale
    except ValueError:
        value = 0.0
    if not (1 <= value < 2**53 and value == int(value)):
        raise argparse.ArgumentTypeError(f"must be a positive whole number such as 2_000_000 or 2M, got {text!r}")
    return int(value)
