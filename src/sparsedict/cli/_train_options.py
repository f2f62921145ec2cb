"""The options of `sparsedict train`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sparsedict.cli._options import add_checkpoints, add_command, add_machine, add_out, add_trackers, count, positive

KINDS = ("distiller", "autoencoder", "cross-layer", "crosscoder")
"""The names of `sparsedict.studies.KINDS`, repeated here because ``--help`` doesn't import PyTorch."""
BATCH_SIZE = 1024
N_TOKENS = 2_000_000
K = 32
EXPANSION = 4
CONTEXT = 256
HELD_OUT = 0.05
L1_COEFFICIENT = 0.1


DTYPES = ("float32", "bfloat16", "float16")

DESCRIPTION = """\
Decomposes one or several MLPs of a language model. Trains a sparse distiller (which reproduces the MLP's output from
its input) and a sparse autoencoder (which reproduces the MLP's output) in one pass, or one dictionary over several MLPs
(--kind cross-layer or crosscoder). Measures them on held-out text. Writes dictionaries, numbers, figures and pages of
all latents to a folder.
"""

EPILOG = """\
examples:
  A model and a dataset from the hub, 16 million tokens, on the GPU if there is one:
    sparsedict train roneneldan/TinyStories-33M --site transformer.h.2.mlp \\
        --data roneneldan/TinyStories --n-tokens 16M --out tinystories-2

  A local model and local text, only a distiller, with 16 active latents and eight latents per neuron:
    sparsedict train ./my-model --site model.layers.3.mlp --data ./texts --kind distiller \\
        --expansion 8 --k 16 --out layer-3

  All layers in one pass (the quotes prevent the shell from expanding the *):
    sparsedict train ./my-model --site 'model.layers.*.mlp' --data ./texts --out all-layers

  One cross-layer distiller of all layers, whose latents write to their own and later layers, then a graph of a prompt:
    sparsedict train ./my-model --site 'model.layers.*.mlp' --data ./texts --kind cross-layer --skip --out layers
    sparsedict trace layers "Once upon a time" --out graph

  A model without a tokenizer, with token ids as data and a vocabulary for the examples:
    sparsedict train stories260K --site model.layers.2.mlp --data stories-train-tokens.npy \\
        --vocabulary tok512-vocab.json --out stories

  Resume a run that was interrupted by Ctrl-C, a scheduler or a crash, with the same command and --resume:
    sparsedict train stories260K --site model.layers.2.mlp --data stories-train-tokens.npy \\
        --vocabulary tok512-vocab.json --out stories --resume
"""


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to a parser."""
    parser = add_command(
        commands,
        "train",
        help="decompose MLPs of your model, with your data",
        usage="MODEL --site PATH --data DATA --out FOLDER [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds all options to the parser of the command."""
    _add_input_and_output(parser)
    _add_data(parser)
    _add_dictionaries(parser)
    _add_training(parser)
    _add_run(parser)


def _add_input_and_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input and output")
    group.add_argument("model", metavar="MODEL", help="a local folder in Hugging Face layout, or a name on the hub")
    group.add_argument(
        "--site",
        required=True,
        action="append",
        metavar="PATH",
        help="path of the MLP's module, such as transformer.h.2.mlp. For several MLPs, use a comma-separated list, a * "
        "or a range such as [0-3] instead of a number, or repeat the option. READS..WRITES selects the first and the "
        "last module of an MLP without a module of its own, such as "
        "'model.decoder.layers.*.fc1..model.decoder.layers.*.fc2' in OPT",
    )
    group.add_argument(
        "--data",
        required=True,
        metavar="DATA",
        help="texts or token ids: a file (.txt, .jsonl, .json, .csv, .tsv, .parquet, .arrow; ids also .npy, .npz, .pt, "
        ".safetensors), a folder of such files, a pattern such as 'texts/*.txt', a folder written by save_to_disk, or "
        "a dataset on the hub, also as NAME:CONFIG:SPLIT",
    )
    add_out(group)


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--split", metavar="NAME", help="split of a dataset (default: train)")
    group.add_argument("--config", metavar="NAME", help="configuration of a dataset (default: its own)")
    group.add_argument(
        "--column",
        "--text-column",
        dest="text_column",
        metavar="NAME",
        help="column or field of the texts or token ids (default: input_ids if it exists, else text)",
    )
    group.add_argument(
        "--bos",
        choices=("both", "rows", "documents", "none"),
        default="both",
        help="positions of the tokenizer's BOS token in texts (default: both, at the start of each sequence and text)",
    )
    _add_sequences(group)


def _add_sequences(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--no-join",
        dest="join",
        action="store_false",
        help="put tokens of different texts or rows into different sequences. The end of each that is shorter than "
        "--context is left out",
    )
    group.add_argument(
        "--context",
        type=count,
        metavar="N",
        help=f"tokens per sequence (default: {CONTEXT}, or the maximum of the model)",
    )
    group.add_argument(
        "--held-out",
        default=str(HELD_OUT),
        metavar="SHARE|DATA",
        help=f"held-out data for the measurements: a share of the sequences, or other data (default: {HELD_OUT})",
    )
    group.add_argument(
        "--exclude-tokens",
        type=int,
        nargs="*",
        metavar="ID",
        help="token ids that are excluded from training and measurements (default: the model's BOS and padding)",
    )
    group.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="JSON file of the strings of tokens, for the examples of a model without a tokenizer",
    )


def _add_dictionaries(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("dictionaries")
    group.add_argument(
        "--kind",
        choices=("both", *KINDS),
        default="both",
        help="dictionaries to train: a distiller and an autoencoder of each site, one of them, or one dictionary over "
        "several sites: a cross-layer distiller (cross-layer transcoder), or a crosscoder of the outputs (default: "
        "both)",
    )
    size = group.add_mutually_exclusive_group()
    size.add_argument(
        "--n-latents",
        type=count,
        metavar="N",
        help="number of latents of each dictionary; of each layer for cross-layer",
    )
    size.add_argument(
        "--expansion",
        type=positive,
        default=float(EXPANSION),
        metavar="X",
        help=f"number of latents per neuron of the MLP (default: {EXPANSION})",
    )
    _add_activation(group)
    group.add_argument("--skip", action="store_true", help="add a linear skip connection to distillers")


def _add_activation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--activation",
        choices=("topk", "batchtopk", "relu", "jumprelu"),
        default="batchtopk",
        help="sparse activation (default: batchtopk)",
    )
    group.add_argument(
        "--k",
        type=count,
        metavar="N",
        help="active latents per token of topk, batchtopk (on average) and jumprelu (on average), in each layer for "
        f"cross-layer (default: {K})",
    )
    group.add_argument(
        "--l1",
        type=float,
        metavar="C",
        help=f"L1 coefficient of relu, relative to the spread of the outputs (default: {L1_COEFFICIENT})",
    )
    group.add_argument(
        "--l0",
        type=float,
        metavar="C",
        help="L0 coefficient of jumprelu instead of --k, in units of squared error",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--n-tokens",
        type=count,
        default=N_TOKENS,
        metavar="N",
        help=f"number of training tokens, such as 2_000_000, 2M or 2e6; short data is repeated (default: {N_TOKENS:,})",
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
        help="peak learning rate (default: depends on the widths, see sparsedict.training.default_lr)",
    )
    group.add_argument(
        "--autocast",
        action="store_true",
        help="compute matrix products of the dictionaries in bfloat16; weights stay float32",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = add_machine(parser)
    add_checkpoints(group)
    add_trackers(group)
    group.add_argument(
        "--latent-ranks",
        type=count,
        default=1,
        metavar="N",
        help="under torchrun, number of processes that share the latents of each dictionary; the others share the data "
        "(default: 1, each process has whole dictionaries)",
    )
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="type of the model's weights; dictionaries are float32 (default: float32)",
    )
