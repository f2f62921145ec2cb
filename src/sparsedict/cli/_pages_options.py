"""The options of `sparsedict pages`."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any

from sparsedict.cli._options import add_command, add_run, count, every, folder

DESCRIPTION = """\
Writes the pages of all latents of a finished run of `sparsedict train` or `sparsedict demo`, and of the MLP's neurons.
The examples come from the run's held-out tokens. The pages open in a browser from disk. After an interruption, the
same command continues the pass over the tokens.
"""

EPILOG = """\
examples:
  sparsedict pages sparsedict-demo
  sparsedict pages sparsedict-demo --scores --stability sparsedict-demo-seed-1
  sparsedict pages layer-3 --n-tokens 5M --out layer-3-pages
"""


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to a parser."""
    parser = add_command(
        commands,
        "pages",
        help="write pages of all latents of a finished run",
        usage="RUN [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("run", type=folder, metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "--out", type=folder, metavar="FOLDER", help="folder of the pages (default: RUN/latents, which is replaced)"
    )
    parser.add_argument("--n-tokens", type=count, metavar="N", help="largest number of tokens (default: all held-out)")
    scores = parser.add_argument_group("scores")
    scores.add_argument(
        "--scores", action="store_true", help="add the columns score and grade: F1 of the best rule about tokens"
    )
    scores.add_argument(
        "--stability",
        type=folder,
        action="append",
        default=[],
        metavar="RUN2",
        help="add the column stability: whether latents return in a run with another --seed. Repeat for several runs",
    )
    group = parser.add_argument_group("run")
    group.add_argument(
        "--checkpoint-every",
        type=every,
        default=timedelta(minutes=10),
        metavar="TOKENS|TIME",
        help="tokens or time between checkpoints, such as 1000000 (tokens) or 30s, 10m, 1h (default: 10m)",
    )
    add_run(group)
    return parser
