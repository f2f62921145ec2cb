"""The options of `sparsedict trace`."""

from __future__ import annotations

import argparse
from typing import Any

from sparsedict.cli._options import add_command, add_run, folder, whole

DESCRIPTION = """\
Writes a page with the attribution graph of a prompt: the direct effects between its tokens, the latents of the run's
distillers, and the most probable next tokens. The page opens in a browser from disk. The folder circuit-tracer in it
has the graph for the frontend of circuit-tracer and for Neuronpedia.
"""

EPILOG = """\
examples:
  sparsedict trace sparsedict-demo "def add(self, other" --out trace
  sparsedict trace two-layers "Once upon a time" --target " there" --out trace
"""


def add(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to a parser."""
    parser = add_command(
        commands,
        "trace",
        help="write a page with the attribution graph of a prompt",
        usage='RUN "PROMPT" --out FOLDER [options]',
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("run", type=folder, metavar="RUN", help="folder of a finished run with distillers")
    parser.add_argument("prompt", metavar="PROMPT", help="the text, in quotes; token ids with --ids")
    parser.add_argument("--out", type=folder, required=True, metavar="FOLDER", help="folder of the page; new or empty")
    parser.add_argument("--force", action="store_true", help="replace an earlier graph in FOLDER")
    parser.add_argument("--ids", action="store_true", help="PROMPT has token ids, such as '0,17,4'")
    parser.add_argument(
        "--target",
        action="append",
        metavar="TOKEN",
        help="next token to attribute: its text, or its id with --ids; repeat for several (default: the most probable)",
    )
    parser.add_argument(
        "--others",
        choices=("neurons", "errors"),
        default="neurons",
        help="nodes of MLPs without a distiller: their neurons, or one error term for each position (default: neurons)",
    )
    parser.add_argument(
        "--features",
        action="store_true",
        help="write the examples of the graph's latents for the frontend of circuit-tracer, from the pages of the run",
    )
    parser.add_argument(
        "--max-latents", type=whole(1, 10**6), default=512, metavar="N", help="largest number of latents (default: 512)"
    )
    parser.add_argument(
        "--check",
        type=whole(1, 10**4),
        default=16,
        metavar="N",
        help="interventions that check the graph (default: 16)",
    )
    group = parser.add_argument_group("run")
    add_run(group)
    return parser
