"""The options of ``python -m examples.report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparsedict import __version__

from .studies import STUDIES

ZOO = "zoo"
NAMES = [study.name for study in STUDIES]

DESCRIPTION = """\
Reproduces every result of the report "Sparse MLP Distillation" on one model, and examines its open questions. Writes a
folder with a page that compares each claim with the measurements, all figures as PNG and SVG, and all numbers as JSON.
With --quick, the embedded model takes less than ten minutes on two cores. The same command resumes an interrupted run.
"""

EPILOG = """\
examples:
  python -m examples.report --out replication
  python -m examples.report --out quick --quick
  python -m examples.report --out sweep --studies l1-sweep equal-sparsity --seed 1

  The setting of the report (same tokens, width and optimiser; days on a GPU, less with fewer tokens):
    python -m examples.report --model roneneldan/TinyStories-2Layers-33M --data roneneldan/TinyStories \\
        --device cuda --out report

  Another model in minutes, here a Llama without a tokenizer, with token ids as data:
    python -m examples.report --model stories260K --path model.layers.{}.mlp --data stories-train-tokens.npy \\
        --vocabulary tok512-vocab.json --quick --out stories
"""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """A help formatter that keeps the line breaks of examples, 100 characters wide."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=100)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.report", description=DESCRIPTION, epilog=EPILOG, formatter_class=Formatter
    )
    parser.add_argument("--version", action="version", version=f"sparsedict {__version__}")
    group = parser.add_argument_group("studies and output")
    group.add_argument(
        "--out", type=_folder, required=True, metavar="FOLDER", help="folder of the results, which must be new or empty"
    )
    group.add_argument(
        "--force",
        action="store_true",
        help="replace a run with other settings in FOLDER; other files with different names are kept",
    )
    group.add_argument(
        "--studies", nargs="+", choices=NAMES, metavar="NAME", help=f"studies to run (default: all): {', '.join(NAMES)}"
    )
    group.add_argument("--quick", action="store_true", help="use few tokens, which shows trends but not exact numbers")
    _add_model(parser)
    _add_machine(parser)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("another model, with the setting of the report unless --quick is used")
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
        help="path of the MLP in each layer, with {} for the number of the layer (default: transformer.h.{}.mlp)",
    )
    group.add_argument(
        "--n-tokens",
        type=_count,
        metavar="N",
        help="training tokens for each student, instead of the report's 4 billion",
    )
    group.add_argument(
        "--text-column", default="text", metavar="NAME", help="column or field with the text (default: text)"
    )
    group.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="JSON file of the strings of tokens, for the examples of a model without a tokenizer",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="seed of weights, order of tokens and latents shown (default: 0)",
    )
    group.add_argument("--threads", type=_count, metavar="N", help="number of CPU threads (default: that of PyTorch)")
    group.add_argument(
        "--device",
        metavar="NAME",
        help="device such as cpu, cuda, cuda:1 or mps (default: the GPU if there is one; the CPU for zoo)",
    )
    group.add_argument("--quiet", action="store_true", help="show no progress bars, only messages and errors")
    group.add_argument("--traceback", action="store_true", help="show the traceback of an error")


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"must be the path of a folder, got {text!r}")
    return Path(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to 2**63 - 1, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    """Parses a positive integer. ``2_000_000``, ``2e6`` and ``2M`` are equal."""
    plain = text.strip().replace("_", "").replace(",", "").lower()
    scale = {"k": 1e3, "m": 1e6, "b": 1e9}.get(plain[-1:], 1.0)
    try:
        value = float(plain[:-1] if scale > 1 else plain) * scale
    except ValueError:
        value = 0.0
    if not (1 <= value < 2**53 and value == int(value)):
        raise argparse.ArgumentTypeError(f"must be a positive integer such as 2_000_000 or 2M, got {text!r}")
    return int(value)
