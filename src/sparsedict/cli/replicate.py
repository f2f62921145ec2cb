"""`sparsedict replicate`: every figure and table of the report, by one command."""

from __future__ import annotations

import argparse
import dataclasses
import math
from typing import Any

from torch import Tensor

from sparsedict import __version__
from sparsedict.cli._model import chosen_device, load_config, load_model, load_tokenizer, special_tokens
from sparsedict.cli._options import set_threads
from sparsedict.cli._replicate_options import ZOO
from sparsedict.cli._tokens import Corpus, held_out_rows
from sparsedict.cli._vocabulary import vocabulary
from sparsedict.studies import (
    QUICK,
    REPORT,
    REPORT_CONTEXT,
    STANDARD,
    STUDIES,
    Bench,
    Finding,
    Setting,
    check_replication,
    replicate,
)

ZOO_VARIANCE = 193.0
"""Of what the embedded model's last MLP writes: what the coefficients of its settings are meant for."""
HELD_OUT = 0.01


def stopped(args: argparse.Namespace) -> str:
    """Says how to resume a run that was interrupted."""
    return "give the same command again to go on."


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    set_threads(args)
    check_replication(args.out, force=args.force)
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
    device = chosen_device(args.device or "cpu")
    return Bench.zoo(setting_of(args), device=device, seed=args.seed, progress=not args.quiet)


def _bench(args: argparse.Namespace) -> Bench:
    import torch

    from sparsedict.pages import token_strings

    setting = setting_of(args)
    strings = None if args.vocabulary is None else vocabulary(args.vocabulary)
    device = chosen_device(args.device)
    config = load_config(args.model)
    tokenizer = load_tokenizer(args.model)
    train, held_out = _tokens(args, setting, tokenizer)
    model = load_model(args.model, device=device, dtype=torch.float32, progress=not args.quiet)
    bench = Bench.of(
        model,
        train,
        held_out,
        setting,
        path=args.path,
        exclude_tokens=special_tokens(config, tokenizer),
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
