"""The options of `sparsedict rate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sparsedict.cli._options import add_command, add_run, count, folder, whole

N_TOKENS = 200_000
N_PER_KIND = 15
N_EXAMPLES = 10

DESCRIPTION = """\
Serves a page on this machine on which you grade from 0 to 4 how well one rule explains the strongest examples of a
latent. The page shows latents of all dictionaries of a finished run and neurons of its MLP, mixed and without names.
Every answer is written at once to RUN/ratings. The same command continues. A second person enters another name.
"""

EPILOG = """\
examples:
  sparsedict rate sparsedict-demo                        serve the page
  sparsedict rate sparsedict-demo --out rate.html        write a page that downloads its answers
  sparsedict rate sparsedict-demo --results              show the results of all raters

Keys of the page: 0 to 4 grade, s skip, u undo, ? grades. To end the server, press Ctrl-C.
"""


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to a parser."""
    parser = add_command(
        commands,
        "rate",
        help="rate latents of a finished run without knowing their dictionary",
        usage="RUN [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("run", type=folder, metavar="RUN", help="folder of `sparsedict demo` or `sparsedict train`")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--out", type=Path, metavar="PAGE", help="write a self-contained page instead of serving it")
    mode.add_argument("--results", action="store_true", help="show the results, which names the dictionaries")
    _add_latents(parser)
    _add_server(parser)
    return parser


def _add_latents(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("latents")
    group.add_argument("--ratings", type=folder, metavar="FOLDER", help="folder of the answers (default: RUN/ratings)")
    group.add_argument(
        "--n-per-kind",
        type=count,
        default=N_PER_KIND,
        metavar="N",
        help="latents of each kind: simulators and sparse latents of a distiller, latents of an autoencoder, neurons "
        f"(default: {N_PER_KIND})",
    )
    group.add_argument(
        "--n-examples", type=count, default=N_EXAMPLES, metavar="N", help=f"examples (default: {N_EXAMPLES})"
    )
    group.add_argument(
        "--n-tokens",
        type=count,
        metavar="N",
        help="held-out tokens in which examples are searched (default: the examples of the pages in RUN/latents, or "
        f"{N_TOKENS:,} tokens if there are none)",
    )
    group.add_argument(
        "--seed", type=whole(0, 2**63 - 1), default=0, metavar="N", help="seed of selection and order (default: 0)"
    )


def _add_server(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--rater", metavar="NAME", help="your name (default: the page asks for it)")
    group.add_argument("--port", type=whole(0, 65535), default=0, metavar="N", help="port (default: a free one)")
    add_run(group)
