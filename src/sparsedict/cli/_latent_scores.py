"""Scores of the latents of a finished run, which `sparsedict pages` shows as columns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsedict.analysis import scores
from sparsedict.cli._finished_run import FinishedRun, RunPart, dictionaries_of
from sparsedict.cli._run_file import run_options
from sparsedict.progress import progress_bar
from sparsedict.sites import Neurons

N_TOKENS = 100_000
"""Largest number of held-out tokens of the rule score."""


def rule_scores(
    loaded: FinishedRun, part: RunPart, n_tokens: int | None, *, progress: bool
) -> dict[str, dict[str, Tensor | scores.LatentScores]]:
    """Returns F1, words and grade of the best rule for the latents and neurons of a part of a run."""
    units, found = part.with_sites(), {}
    n_sequences = max(1, min(n_tokens or N_TOKENS, N_TOKENS) // loaded.held_out.shape[1])
    with progress_bar("rule scores", total=len(units), unit="dictionaries", shown=progress) as bar:
        for name, (site, dictionary) in units.items():
            above = 0.0 if isinstance(dictionary, Neurons) else None
            tokens = loaded.held_out[:n_sequences]
            text = scores.record(site, dictionary, tokens, strings=loaded.strings, above=above)
            rules = scores.RuleScore()(text)
            found[name] = {"score": rules, "grade": rules.columns["grade"]}
            bar.update(1)
    return found


def check_seeds(run: Path, others: Sequence[Path]) -> None:
    """Checks that other runs differ from a run in their seed alone.

    Raises:
        ValueError: If they don't.
    """
    own, seeds = run_options(run), {run_options(run)["--seed"]: run}
    for other in others:
        options = run_options(other)
        different = sorted(name for name in own.keys() | options.keys() if not _same(own.get(name), options.get(name)))
        wrong = [name for name in different if name != "--seed"]
        if wrong:
            raise ValueError(
                f"--stability must be a run that differs from RUN in --seed alone, but {other} differs in "
                f"{', '.join(wrong)}. Repeat the command of RUN with another --seed."
            )
        if options["--seed"] in seeds:
            raise ValueError(
                f"--stability must be a run with another --seed, but {other} has the seed of "
                f"{seeds[options['--seed']]}, {options['--seed']}. Repeat the command of RUN with another --seed."
            )
        seeds[options["--seed"]] = other


def _same(own: Any, other: Any) -> bool:
    """Returns whether two values of an option are equal, or paths of the same file or folder."""
    if own == other:
        return True
    paths = [value for value in (own, other) if isinstance(value, str) and os.path.isabs(value)]
    return len(paths) == 2 and os.path.realpath(own) == os.path.realpath(other)


def stabilities(
    loaded: FinishedRun, part: RunPart, others: Sequence[Path]
) -> dict[str, dict[str, Tensor | scores.LatentScores]]:
    """Returns the share of other runs in which each latent of a part of a run returns."""
    runs: list[Mapping[str, Any]] = [
        dictionaries_of(other, list(loaded.sites), "cpu", "--stability")[part.name] for other in others
    ]
    return {
        kind: {"stability": scores.stability(own, [run[kind] for run in runs]).value}
        for kind, own in part.dictionaries.items()
    }
