"""``python -m examples.report``, the command that reproduces every figure and table of the report."""

from __future__ import annotations

import argparse
import dataclasses
import math
import signal
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import sparsedict as sd
from sparsedict.pages import token_strings
from sparsedict.training import NonFiniteLossError, Terminated, exit_on_signal

from . import options
from .data import held_out_rows, read_rows, read_vocabulary
from .experiment import Experiment
from .folder import check_replication
from .options import ZOO
from .presets import QUICK, REPORT, REPORT_CONTEXT, STANDARD
from .replication import replicate
from .setting import Setting
from .studies import STUDIES
from .study import Finding

ZOO_VARIANCE = 193.0
"""Variance of the outputs of the embedded model's last MLP, for which the coefficients of its settings are chosen."""
HELD_OUT = 0.01
RESUME = "run the same command again to resume."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit status: 0 on success, 1 if training diverged, 2 for errors that the user can correct, 130 after Ctrl-C,
        and 128 plus the signal number after another signal.
    """
    args = options.parser().parse_args(argv)
    try:
        run(args)
    except KeyboardInterrupt:
        print(f"\ninterrupted; {RESUME}", file=sys.stderr)
        return 130
    except Terminated as error:
        print(f"\nstopped by {signal.Signals(error.signal).name}; {RESUME}", file=sys.stderr)
        return 128 + error.signal
    except (NonFiniteLossError, ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        if args.traceback:
            raise
        print(f"error: {_message(error)}", file=sys.stderr)
        return 1 if isinstance(error, NonFiniteLossError) else 2
    return 0


def _message(error: Exception) -> str:
    """Returns the message of an error on one line, with arguments replaced by options."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        text = error.strerror  # without the number
    return " ".join(text.split()).replace("`path`", "--out").replace("force=True", "--force")


def run(args: argparse.Namespace) -> None:
    """Runs the studies of the options."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    check_replication(args.out, force=args.force)
    experiment = _zoo_experiment(args) if args.model == ZOO else _experiment(args)
    studies = [study for study in STUDIES if args.studies is None or study.name in args.studies]
    model = "the embedded model" if args.model == ZOO else args.model
    facts = {"model": model, "data": args.data or "Python's standard library", "version": sd.__version__}
    found = replicate(experiment, args.out, studies=studies, facts=facts, force=args.force, progress=not args.quiet)
    _conclude(found, args)


def setting_of(args: argparse.Namespace) -> Setting:
    """Returns the setting of the options.

    Raises:
        ValueError: If options are incompatible.
    """
    if args.model == ZOO:
        if args.data is not None:
            raise ValueError("--data requires --model, because the embedded model has its own text.")
        setting = QUICK if args.quick else STANDARD
    else:
        if args.data is None:
            raise ValueError(f"--data is required for --model {args.model!r}, such as roneneldan/TinyStories.")
        setting = QUICK if args.quick else REPORT
    return setting if args.n_tokens is None else _with_tokens(setting, args.n_tokens)


def _with_tokens(setting: Setting, n_tokens: int) -> Setting:
    """Returns the setting with all training scaled to ``n_tokens`` tokens for each student of the report."""
    scale = n_tokens / setting.report.n_tokens

    def scaled(n: int) -> int:
        return max(1, round(n * scale))

    trainings = {
        name: dataclasses.replace(training, n_tokens=scaled(training.n_tokens))
        for name, training in (("report", setting.report), ("modern", setting.modern), ("wide", setting.wide))
    }
    return dataclasses.replace(setting, n_harvested=min(setting.n_harvested, n_tokens), **trainings)


def _zoo_experiment(args: argparse.Namespace) -> Experiment:
    return Experiment.from_zoo(setting_of(args), device=_device(args, "cpu"), seed=args.seed, progress=not args.quiet)


def _experiment(args: argparse.Namespace) -> Experiment:
    import transformers

    setting = setting_of(args)
    strings = None if args.vocabulary is None else read_vocabulary(args.vocabulary)
    device = _device(args, "cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = _tokenizer(args.model)
    train, held_out = _tokens(args, setting, tokenizer)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    experiment = Experiment.from_model(
        nn.Module.to(model, device).eval(),
        train,
        held_out,
        setting,
        path=args.path,
        exclude_tokens=_special_tokens(model.config, tokenizer),
        seed=args.seed,
        progress=not args.quiet,
        strings=token_strings(tokenizer if strings is None else strings),
    )
    if args.quick:
        experiment.setting = setting.scaled(math.sqrt(experiment.variance(f"mlp {experiment.layer}") / ZOO_VARIANCE))
    return experiment


def _device(args: argparse.Namespace, default: str) -> torch.device:
    try:
        device = torch.device(args.device or default)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device must be a device of this machine, such as cpu or cuda: {error}") from error
    print(f"device: {device}", file=sys.stderr)
    return device


def _tokenizer(model: str) -> Any | None:
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(model)
    except Exception:  # differs by family and version where a model has no tokenizer
        return None


def _special_tokens(config: Any, tokenizer: Any | None) -> list[int]:
    """Returns the ids of the BOS and padding tokens of a model, if it has them."""
    names = ("bos_token_id", "pad_token_id")
    found = {getattr(owner, name, None) for owner in (tokenizer, config) for name in names}
    return sorted(token for token in found if isinstance(token, int) and 0 <= token < config.vocab_size)


def _tokens(args: argparse.Namespace, setting: Setting, tokenizer: Any | None) -> tuple[Tensor, Tensor]:
    wanted = setting.n_harvested + setting.n_held_out
    rows = read_rows(args.data, tokenizer, context=REPORT_CONTEXT, n_tokens=2 * wanted, column=args.text_column)
    return held_out_rows(rows, min(0.5, max(HELD_OUT, setting.n_held_out / rows.numel())))


def _conclude(found: dict[str, Finding], args: argparse.Namespace) -> None:
    width = max(len(name) for name in found)
    for name, finding in found.items():
        print(f"{name.ljust(width)}  {finding.verdict}")
    print(f"\nOpen {(args.out / 'index.html').resolve()} in a browser.")


if __name__ == "__main__":
    # With these handlers, `fit` finishes its step and writes a checkpoint.
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), exit_on_signal)
    sys.exit(main())
