"""The options of `sparsedict diagnose`."""

from __future__ import annotations

import argparse
from typing import Any

from sparsedict.cli._options import add_command, add_run, count, folder
from sparsedict.cli._train_options import CONTEXT, DTYPES

N_TOKENS = 16_384

DESCRIPTION = """\
Measures the activations of an MLP in seconds, and prints how to train on them: mean, outlier dimensions, tokens with
huge norms and where they stand, effective rank and the linear part of the MLP; and the advised input norm, skip, k and
tokens to exclude. With --dictionary, it also prints why latents never fire and which tokens carry the error.
"""

EPILOG = """\
examples:
  sparsedict diagnose roneneldan/TinyStories-33M --site transformer.h.2.mlp --data roneneldan/TinyStories
  sparsedict diagnose ./my-model --site 'model.layers.*.mlp' --data ./texts
  sparsedict diagnose ./my-model --site model.layers.3.mlp --data ./texts --dictionary layer-3/dictionaries/distiller
"""


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to a parser."""
    parser = add_command(
        commands,
        "diagnose",
        help="measure activations before a run, and a dictionary after it",
        usage="MODEL --site PATH --data DATA [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help="a local folder in Hugging Face layout, or a name on the hub")
    parser.add_argument(
        "--site",
        required=True,
        action="append",
        metavar="PATH",
        help="path of the MLP's module, as for sparsedict train",
    )
    parser.add_argument("--data", required=True, metavar="DATA", help="texts or token ids, as for sparsedict train")
    parser.add_argument("--dictionary", type=folder, metavar="PATH", help="a trained dictionary of the only site")
    parser.add_argument(
        "--n-tokens", type=count, default=N_TOKENS, metavar="N", help=f"number of tokens (default: {N_TOKENS:,})"
    )
    parser.add_argument(
        "--context",
        type=count,
        metavar="N",
        help=f"tokens per sequence (default: {CONTEXT}, or the maximum of the model)",
    )
    parser.add_argument("--split", metavar="NAME", help="split of a dataset (default: train)")
    parser.add_argument("--config", metavar="NAME", help="configuration of a dataset (default: its own)")
    parser.add_argument(
        "--column", dest="text_column", metavar="NAME", help="column or field of the texts or token ids"
    )
    parser.add_argument(
        "--exclude-tokens",
        type=int,
        nargs="*",
        default=[],
        metavar="ID",
        help="token ids that are excluded already (default: none, so that BOS is measured too)",
    )
    group = parser.add_argument_group("run")
    add_run(group)
    group.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the model's weights")
    return parser
