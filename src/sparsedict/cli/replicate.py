"""`sparsedict replicate`: every figure and table of the report, by one command."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsedict import __version__
from sparsedict.cli._model import load_model, load_tokenizer, special_tokens
from sparsedict.cli._options import Formatter, add_machine, add_out, count, set_threads
from sparsedict.cli._tokens import Corpus, held_out_rows, vocabulary
from sparsedict.studies import QUICK, REPORT, REPORT_CONTEXT, STANDARD, STUDIES, Bench, Finding, Setting, replicate

ZOO = "zoo"
ZOO_VARIANCE = 193.0
"""Of what the embedded model's last MLP writes: what the coefficients of its settings are meant for."""
HELD_OUT = 0.01

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


def add(commands: Any) -> None:
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
    add_out(group)
    group.add_argument(
        "--studies",
        nargs="+",
        choices=[study.name for study in STUDIES],
        metavar="NAME",
        help=f"which (default: all): {', '.join(study.name for study in STUDIES)}",
    )
    group.add_argument("--quick", action="store_true", help="few tokens: directions, not numbers")
    _add_model(parser)
    add_machine(parser)
    parser.set_defaults(run=run, stopped=lambda args: "give the same command again to go on.")


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
    group.add_argument("--device", default="cpu", metavar="NAME", help="such as cpu, cuda, mps (default: cpu)")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    set_threads(args)
    bench = _zoo_bench(args) if args.model == ZOO else _bench(args)
    studies = [study for study in STUDIES if args.studies is None or study.name in args.studies]
    model = "the embedded model" if args.model == ZOO else args.model
    facts = {"model": model, "data": args.data or "Python's standard library", "version": __version__}
    found = replicate(bench, args.out, studies=studies, facts=facts, force=args.force, progress=not args.quiet)
    _conclude(found, args)


def setting_of(args: argparse.Namespace) -> Setting:
    """Returns the setting that the options ask for.

    Raises:
        ValueError: If options don't go together.
    """
    if args.model == ZOO:
        if args.data is not None:
            raise ValueError("--data goes with --model, for the embedded model has its own text.")
        setting = QUICK if args.quick else STANDARD
    else:
        if args.data is None:
            raise ValueError(f"--data must be given for --model {args.model!r}, such as roneneldan/TinyStories.")
        setting = QUICK if args.quick else REPORT
    return setting if args.n_tokens is None else _with_tokens(setting, args.n_tokens)


def _with_tokens(setting: Setting, n_tokens: int) -> Setting:
    """Scales all training to a number of tokens for each of the report's students."""
    scale = n_tokens / setting.report.n_tokens

    def scaled(n: int) -> int:
        return max(1, round(n * scale))

    trainings = {
        name: dataclasses.replace(training, n_tokens=scaled(training.n_tokens))
        for name, training in (("report", setting.report), ("modern", setting.modern), ("wide", setting.wide))
    }
    return dataclasses.replace(setting, n_harvested=min(setting.n_harvested, n_tokens), **trainings)


def _zoo_bench(args: argparse.Namespace) -> Bench:
    return Bench.zoo(setting_of(args), seed=args.seed, progress=not args.quiet)


def _bench(args: argparse.Namespace) -> Bench:
    import torch

    from sparsedict.pages import token_strings

    setting = setting_of(args)
    strings = None if args.vocabulary is None else vocabulary(args.vocabulary)
    model = load_model(args.model, device=args.device, dtype=torch.float32, progress=not args.quiet)
    tokenizer = load_tokenizer(args.model)
    train, held_out = _tokens(args, setting, tokenizer)
    bench = Bench.of(
        model,
        train,
        held_out,
        setting,
        path=args.path,
        exclude_tokens=special_tokens(model, tokenizer),
        seed=args.seed,
        progress=not args.quiet,
        strings=token_strings(tokenizer if strings is None else strings),
    )
    if args.quick:
        bench.setting = setting.scaled(math.sqrt(bench.variance(f"mlp {bench.layer}") / ZOO_VARIANCE))
    return bench


def _tokens(args: argparse.Namespace, setting: Setting, tokenizer: Any) -> tuple[Tensor, Tensor]:
    wanted = setting.n_harvested + setting.n_held_out
    corpus = Corpus(tokenizer, REPORT_CONTEXT, args.text_column, "train", wanted)
    rows = corpus.read(args.data)
    part = min(0.5, max(HELD_OUT, setting.n_held_out / max(rows.numel(), 1)))
    return held_out_rows(rows, part)


def _conclude(found: dict[str, Finding], args: argparse.Namespace) -> None:
    width = max(len(name) for name in found)
    for name, finding in found.items():
        print(f"{name.ljust(width)}  {finding.verdict}")
    print(f"\nOpen {(args.out / 'index.html').resolve()} in a browser.")
