"""The options of `sparsedict train`, in groups."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sparsedict.cli._options import Formatter, add_checkpoints, add_machine, add_out, add_trackers, count, positive

BATCH_SIZE = 1024
N_TOKENS = 2_000_000
K = 32
EXPANSION = 4
CONTEXT = 256
HELD_OUT = 0.05
L1_COEFFICIENT = 0.2
L0_COEFFICIENT = 0.01


DTYPES = ("float32", "bfloat16", "float16")

DESCRIPTION = """\
Takes one MLP of a language model apart, or several: trains a sparse distiller (which computes what the MLP computes,
from its input) and a sparse autoencoder (which reproduces what it writes), both in one pass; measures them on text that
was held out; and writes dictionaries, numbers, figures and a page of top activating examples to a folder.
"""

EPILOG = """\
examples:
  A model from the hub on a data set from the hub, 16 million tokens, on the GPU if there is one:
    sparsedict train roneneldan/TinyStories-33M --site transformer.h.2.mlp \\
        --data roneneldan/TinyStories --n-tokens 16M --out tinystories-2

  A local model on local text, one dictionary, a sparser one with eight times as many latents as neurons:
    sparsedict train ./my-model --site model.layers.3.mlp --data ./texts --kind distiller \\
        --expansion 8 --k 16 --out layer-3

  All layers in one pass (quotes keep the shell from expanding the *):
    sparsedict train ./my-model --site 'model.layers.*.mlp' --data ./texts --out all-layers

  A model without a tokenizer, on token ids; its vocabulary makes the examples readable:
    sparsedict train stories260K --site model.layers.2.mlp --data stories-train-tokens.npy \\
        --vocabulary tok512-vocab.json --out stories

  A run that was stopped, by Ctrl-C, a scheduler or a crash, continues by the same command with --resume:
    sparsedict train stories260K --site model.layers.2.mlp --data stories-train-tokens.npy \\
        --vocabulary tok512-vocab.json --out stories --resume
"""


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        help="take MLPs of your own model apart, on your own data",
        usage="sparsedict train MODEL --site PATH --data DATA --out FOLDER [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    add_options(parser)
    parser.set_defaults(command="train")
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds all options."""
    _add_what(parser)
    _add_data(parser)
    _add_dictionaries(parser)
    _add_training(parser)
    _add_run(parser)


def _add_what(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what and where")
    group.add_argument("model", metavar="MODEL", help="a local folder in Hugging Face layout, or a name on the hub")
    group.add_argument(
        "--site",
        required=True,
        action="append",
        metavar="PATH",
        help="the MLP's module, such as transformer.h.2.mlp; several as a list with commas, by a * or a range like "
        "[0-3] in place of a number, or by the option again; READS..WRITES names the two ends of an MLP without a "
        "module of its own, such as 'model.decoder.layers.*.fc1..model.decoder.layers.*.fc2' in OPT",
    )
    group.add_argument(
        "--data",
        required=True,
        metavar="DATA",
        help="texts or token ids: a file (.txt, .jsonl, .json, .csv, .tsv, .parquet, .arrow; ids also .npy, .npz, .pt, "
        ".safetensors), a folder of them, a pattern such as 'texts/*.txt', a folder written by save_to_disk, or a "
        "dataset on the hub; datasets also as NAME:CONFIG:SPLIT",
    )
    add_out(group)


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--split", metavar="NAME", help="of a dataset (default: train)")
    group.add_argument("--config", metavar="NAME", help="configuration of a dataset (default: its own)")
    group.add_argument(
        "--column",
        "--text-column",
        dest="text_column",
        metavar="NAME",
        help="column or field with the texts or the token ids (default: input_ids where there is one, else text)",
    )
    group.add_argument(
        "--bos",
        choices=("both", "rows", "documents", "none"),
        default="both",
        help="where texts get the tokenizer's BOS (default: both, at the start of each sequence and of each text)",
    )
    group.add_argument(
        "--no-join", dest="join", action="store_false", help="let no sequence hold tokens of several texts"
    )
    group.add_argument(
        "--context", type=count, metavar="N", help=f"tokens per sequence (default: {CONTEXT}, or what the model takes)"
    )
    group.add_argument(
        "--held-out",
        default=str(HELD_OUT),
        metavar="SHARE|DATA",
        help=f"what to measure on: a share of the sequences, the last ones, or other data (default: {HELD_OUT})",
    )
    group.add_argument(
        "--exclude-tokens",
        type=int,
        nargs="*",
        metavar="ID",
        help="ids at which nothing is trained, measured or replaced (default: the model's BOS and padding)",
    )
    group.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="JSON with the strings of the tokens, for the examples, where the model has no tokenizer",
    )


def _add_dictionaries(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("dictionaries")
    group.add_argument(
        "--kind", choices=("distiller", "autoencoder", "both"), default="both", help="what to train (default: both)"
    )
    size = group.add_mutually_exclusive_group()
    size.add_argument("--n-latents", type=count, metavar="N", help="latents of each dictionary")
    size.add_argument(
        "--expansion",
        type=positive,
        default=float(EXPANSION),
        metavar="X",
        help=f"latents per neuron of the MLP, instead (default: {EXPANSION})",
    )
    group.add_argument(
        "--activation",
        choices=("topk", "batchtopk", "relu", "jumprelu"),
        default="topk",
        help="what makes latents sparse (default: topk)",
    )
    group.add_argument("--k", type=count, metavar="N", help=f"active latents per token, for (batch)topk (default: {K})")
    group.add_argument(
        "--l1",
        type=float,
        metavar="C",
        help=f"weight of the sum of activations, for relu, in units of squared error (default: {L1_COEFFICIENT})",
    )
    group.add_argument(
        "--l0",
        type=float,
        metavar="C",
        help=f"cost of one active latent, for jumprelu, in units of squared error (default: {L0_COEFFICIENT})",
    )
    group.add_argument("--skip", action="store_true", help="give the distiller a linear path beside its latents")


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--n-tokens",
        type=count,
        default=N_TOKENS,
        metavar="N",
        help=f"tokens to train on; shorter data is repeated (default: {N_TOKENS:,}; 2_000_000, 2M and 2e6 are one)",
    )
    group.add_argument(
        "--batch-size",
        type=count,
        default=BATCH_SIZE,
        metavar="N",
        help=f"tokens per step (default: {BATCH_SIZE:,})",
    )
    group.add_argument(
        "--lr",
        type=float,
        default=None,
        metavar="X",
        help="peak learning rate of Adam (default: by the widths, see sparsedict.training.default_lr)",
    )
    group.add_argument(
        "--autocast", action="store_true", help="compute the dictionaries' products in bfloat16; weights stay float32"
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = add_machine(parser)
    add_checkpoints(group)
    add_trackers(group)
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of the model; the dictionaries are float32 (default: float32)",
    )
