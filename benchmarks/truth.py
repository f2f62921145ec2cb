"""Known features that dictionaries recover: ``python -m benchmarks.truth``.

Truth A has 512 unit features in 128 dimensions, 8 of them active on average; truth B has 1,024 features, 12 of them
active. Frequencies are proportional to the power -0.6 of the rank, features are independent, strengths are uniform in
0.5 to 1.5, and there is no noise. Dictionaries have 1.5 latents per feature. ``synth`` is the setting of
SynthSAEBench-16k with 4,096 latents, and ``teacher`` an MLP with 512 features, for transcoders.

A feature is recovered if the latent that the optimal assignment gives it has a decoder cosine of at least 0.9. A run
writes checkpoints and stops after ``--minutes``. The same command resumes it. The same random generator makes features,
tokens and initial weights of a seed. Needs SciPy.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import sparsedict as sd
from sparsedict.analysis import FeatureRecovery, feature_recovery
from sparsedict.data import synthetic
from sparsedict.data.synthetic import PowerLaw, SyntheticFeatures, TeacherMLP

RESULTS = Path(__file__).parent / "results" / "truth.json"


@dataclass(frozen=True)
class Setting:
    """A truth, and the shape of the dictionaries that are trained on it.

    Attributes:
        make: Returns the truth of a seed.
        n_latents: Number of latents.
        k: Active latents per token.
        target: Share of features to recover; ``None`` without a target.
    """

    make: Callable[[int], SyntheticFeatures | TeacherMLP]
    n_latents: int
    k: int
    target: float | None = None

    def dictionary(self, activation: sd.Activation, seed: int) -> sd.Dictionary:
        truth = self.make(seed)
        generator = torch.Generator().manual_seed(seed)
        parts: dict[str, Any] = {"activation": activation, "decoder_norm": sd.UnitNorm(), "generator": generator}
        d_out = truth.writes.shape[1]
        if isinstance(truth, TeacherMLP):
            return sd.SparseDistiller(truth.reads.shape[1], d_out, self.n_latents, **parts)
        return sd.SparseAutoencoder(d_out, self.n_latents, **parts)


def independent(n_features: int, l0: float, seed: int) -> SyntheticFeatures:
    return SyntheticFeatures(128, n_features, l0, seed, frequencies=PowerLaw(0.6))


def teacher(seed: int) -> TeacherMLP:
    return TeacherMLP(SyntheticFeatures(128, 192, 12, seed), 512, seed=seed)


SETTINGS = {
    "A": Setting(partial(independent, 512, 8.0), 768, 8, target=0.99),
    "B": Setting(partial(independent, 1024, 12.0), 1536, 12, target=0.95),
    "synth": Setting(synthetic.synth_sae_bench_16k, 4096, 25),
    "teacher": Setting(teacher, 768, 8),
}

LAZY = sd.training.LazyAdam
RESAMPLE = sd.Resample(every=200, dead_after=50_000, until=0.6, n_inputs=8192)
DEFAULT = sd.studies.recipes()["autoencoder"].options
RECIPES: dict[str, tuple[type[sd.TopK | sd.BatchTopK], Callable[[Setting], dict[str, Any]]]] = {
    "sparsedict train": (sd.BatchTopK, lambda s: dict(DEFAULT)),
    "sparsedict train, topk": (sd.TopK, lambda s: dict(DEFAULT)),
    "TopK, Adam": (sd.TopK, lambda s: {}),
    "TopK, Adam, AuxK": (sd.TopK, lambda s: {"penalties": [sd.AuxK()]}),
    "TopK, Adam, Resample": (sd.TopK, lambda s: {"step_hooks": [RESAMPLE]}),
    "TopK, Adam, AnnealK": (sd.TopK, lambda s: {"step_hooks": [sd.AnnealK(4 * s.k)]}),
    "TopK, LazyAdam": (sd.TopK, lambda s: {"optimizer": LAZY}),
    "BatchTopK, Adam": (sd.BatchTopK, lambda s: {}),
    "BatchTopK, Adam, AuxK, AnnealK": (
        sd.BatchTopK,
        lambda s: {"penalties": [sd.AuxK()], "step_hooks": [sd.AnnealK(4 * s.k)]},
    ),
    "BatchTopK, LazyAdam": (sd.BatchTopK, lambda s: {"optimizer": LAZY}),
    "BatchTopK, LazyAdam, AuxK": (sd.BatchTopK, lambda s: {"optimizer": LAZY, "penalties": [sd.AuxK()]}),
    "BatchTopK, LazyAdam, Resample": (sd.BatchTopK, lambda s: {"optimizer": LAZY, "step_hooks": [RESAMPLE]}),
    "BatchTopK, LazyAdam, AnnealK": (
        sd.BatchTopK,
        lambda s: {"optimizer": LAZY, "step_hooks": [sd.AnnealK(4 * s.k)]},
    ),
    "BatchTopK, LazyAdam, Nested": (
        sd.BatchTopK,
        lambda s: {"optimizer": LAZY, "loss": sd.Nested((s.n_latents // 4, s.n_latents // 2))},
    ),
    "BatchTopK, Adam, Nested": (
        sd.BatchTopK,
        lambda s: {"loss": sd.Nested((s.n_latents // 16, s.n_latents // 4, s.n_latents // 2), detached=True)},
    ),
}


class PausedError(Exception):
    """Raised when the time of a command is over. The run resumes from its checkpoint."""


def pause_after(minutes: float) -> sd.training.callbacks.Callback:
    """Returns a callback that ends the run after a time."""
    end = time.monotonic() + 60 * minutes

    def callback(name: str, record: object, dictionary: sd.Dictionary) -> None:
        if time.monotonic() > end:
            raise PausedError

    return callback


def trained(
    setting: Setting, recipe: str, seed: int, options: argparse.Namespace, minutes: float
) -> tuple[sd.Dictionary, sd.History] | None:
    """Returns a trained dictionary and its history; ``None`` if the time was over."""
    activation, parts = RECIPES[recipe]
    dictionary = setting.dictionary(activation(setting.k), seed)
    own = parts(setting)
    if options.lr is not None:
        own["lr"] = sd.training.RelativeLR(options.lr)
    trainee = sd.Trainee(dictionary, **own)
    n_steps = options.tokens // options.batch_size
    saved: dict[str, Any] = {}
    if options.checkpoints is not None:
        name = "-".join([options.truth, recipe.replace(", ", "_"), str(options.tokens), str(options.batch_size)])
        folder = options.checkpoints / f"{name}-lr{options.lr}-seed{seed}"
        saved = {"checkpoint": folder, "checkpoint_every": max(1, n_steps // 40), "resume": folder.exists()}
    data = synthetic.stream(setting.make(seed), batch_size=options.batch_size, seed=seed)
    try:
        histories = sd.fit_many(
            {"": trainee},
            data,
            n_tokens=options.tokens,
            log_every=max(1, n_steps // 40),
            callbacks=[pause_after(minutes)],
            progress=False,
            **saved,
        )
    except PausedError:
        return None
    return dictionary, histories[""]


def row(found: FeatureRecovery, history: sd.History) -> dict[str, float]:
    """Returns the figures of a run."""
    last = history.records[-1]
    parts = {"": found.firing, "oracle ": found.oracle, "latent ": found.nearest}
    scores = {
        f"{name}{score}": getattr(part, f"mean_{score.lower()}")
        for name, part in parts.items()
        for score in ("precision", "recall", "F1")
    }
    own = {"recovered": found.recovered, "MCC": found.mean_cosine, "null": found.recovered_null}
    return {**own, **scores, "FVU": last.fvu, "L0": last.l0, "dead": last.dead, "seconds": history.seconds}


def merged(path: Path, new: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the stored rows with new ones added. A new row replaces one with the same settings."""
    keys = ("truth", "recipe", "tokens", "batch_size", "lr", "seed")
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    rows = {tuple(own[key] for key in keys): own for own in (*old, *new)}
    return list(rows.values())


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", choices=list(SETTINGS), default="A")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=["TopK, Adam"], metavar="RECIPE")
    parser.add_argument("--tokens", type=int, default=6_000_000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--lr", type=float, help="peak rate in units of the data (default: that of `fit`)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--n-held-out", type=int, default=20_000, help="tokens on which firing is scored")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time after which the command stops")
    parser.add_argument("--checkpoints", type=Path, help="folder of the checkpoints, needed to resume")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.minutes < float("inf") and options.checkpoints is None:
        parser.error("--minutes needs --checkpoints FOLDER, from which the next command resumes.")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    setting, end = SETTINGS[options.truth], time.monotonic() + 60 * options.minutes
    for recipe in options.recipes:
        for seed in options.seeds:
            result = trained(setting, recipe, seed, options, (end - time.monotonic()) / 60)
            if result is None:
                print(f"{recipe}, seed {seed}: stopped; run the command again to resume", flush=True)
                return 75
            found = feature_recovery(result[0], setting.make(seed), n_tokens=options.n_held_out)
            numbers = {name: round(value, 4) for name, value in row(found, result[1]).items()}
            settings = {name: getattr(options, name) for name in ("truth", "tokens", "batch_size", "lr")}
            new = {**settings, "recipe": recipe, "seed": seed, "torch": torch.__version__, **numbers}
            print(f"{recipe}, seed {seed}\n{found}\n{json.dumps(numbers)}", flush=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(merged(options.out, [new]), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
