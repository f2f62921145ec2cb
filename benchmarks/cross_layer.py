"""Per-layer against cross-layer distillers, with every MLP replaced: ``python -m benchmarks.cross_layer``.

Dictionaries of all MLPs of a model are trained on the same stored activations and evaluated on held-out text:

- per layer: a sparse distiller for each MLP (a cross-layer distiller whose latents write to their own layer only).
- per layer, skip: the same, with a linear skip connection for each MLP.
- cross layer: latents also write to all later layers. As many latents.
- cross layer, skip: the same, with a linear skip connection for each MLP.
- cross layer, equal parameters: fewer latents, so that there are as many parameters as in "per layer".
- cross layer, equal time: fewer tokens, so that training takes as long as that of "per layer". The ratio of the times
  per step is measured in alternating short runs.

All use BatchTopK in each layer, unit decoder rows, AuxK, LazyAdam and BalancedError. The tables show the
loss recovered with all MLPs replaced at once (zero and mean ablation), the KL divergence, the share of tokens with the
same prediction, L0 per layer, the share of latents that never fired, the FVU of each layer, the processor time, and the
measurements of `examples.report.layer_latents`: mean and range over seeds. A seed determines the initial weights and
the order of the tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn

import sparsedict as sd
from benchmarks import stories
from benchmarks.spread import table
from examples.report.layer_latents import LiveLatents, duplicates, merged, written_later

RESULTS = Path(__file__).parent / "results"
N_LATENT_TOKENS = 4_096
"""Tokens for the measurements of latents."""
N_TIMED_STEPS = 8
DEAD_AFTER = 30_000
Rows = dict[str, dict[str, list[float]]]
"""One value per seed, by kind and measurement."""


@dataclass(frozen=True)
class Kind:
    """A kind of dictionary, and what it has in common with the per-layer distillers."""

    layout: sd.DecoderLayout
    skip: bool = False
    equal: Literal["latents", "parameters", "time"] = "latents"


KINDS = {
    "per layer": Kind(sd.NextLayers(0)),
    "per layer, skip": Kind(sd.NextLayers(0), skip=True),
    "cross layer": Kind(sd.LaterLayers()),
    "cross layer, skip": Kind(sd.LaterLayers(), skip=True),
    "cross layer, equal parameters": Kind(sd.LaterLayers(), equal="parameters"),
    "cross layer, equal time": Kind(sd.LaterLayers(), equal="time"),
}


@dataclass(frozen=True)
class Comparison:
    """The model, data and sizes of a comparison.

    Attributes:
        sites: The sites.
        folder: Folder of the stored activations and of the trained dictionaries.
        held_out: Tokens of the evaluation.
        n_latents: Latents per layer of the per-layer distillers.
        k: Active latents per layer and token.
        n_tokens: Training tokens of each dictionary.
        batch_size: Tokens per step.
    """

    sites: sd.Sites
    folder: Path
    held_out: Tensor
    n_latents: int
    k: int
    n_tokens: int
    batch_size: int

    def make(self, kind: Kind, seed: int) -> sd.CrossLayerDistiller:
        """Returns a new dictionary."""
        n_latents = self.n_latents
        if kind.equal == "parameters":
            widths = [(site.d_in, site.d_out) for site in self.sites.values()]
            per_layer = sum(d_in + d_out for d_in, d_out in widths)
            cross_layer = sum(d_in + sum(d_out for _, d_out in widths[i:]) for i, (d_in, _) in enumerate(widths))
            n_latents = n_latents * per_layer // cross_layer
        return sd.CrossLayerDistiller(
            self.sites,
            n_latents,
            activation=sd.PerLayer(sd.BatchTopK(self.k)),
            decoder_norm=sd.UnitNorm(),
            layout=kind.layout,
            skip=kind.skip,
            generator=torch.Generator().manual_seed(seed),
        )

    def data(self, seed: int = 0) -> sd.ActivationStore:
        """Returns the stored activations in an order that depends on the seed."""
        return sd.ActivationStore(
            self.folder / "activations", batch_size=self.batch_size, seed=seed, dtype=torch.float32
        )

    def trained(self, name: str, seed: int, relative_time: float | None) -> tuple[sd.CrossLayerDistiller, float]:
        """Returns a trained dictionary and the processor time of its training in seconds.

        The dictionary of an earlier run with the same sizes is loaded. An interrupted training is resumed from its
        checkpoint. Its processor time is then that of the last part only.

        Args:
            name: Name of the kind.
            seed: The seed.
            relative_time: Time per step of a cross-layer distiller over that of the per-layer distillers. Required for
                "equal time".
        """
        folder = self.folder / f"{name.replace(', ', '-').replace(' ', '-')}-{self.n_latents}-{self.n_tokens}-{seed}"
        if (folder / "seconds.json").exists():
            dictionary = sd.load(folder / "dictionary")
            assert isinstance(dictionary, sd.CrossLayerDistiller)
            return dictionary, json.loads((folder / "seconds.json").read_text(encoding="utf-8"))
        kind = KINDS[name]
        n_tokens = self.n_tokens
        if kind.equal == "time":
            assert relative_time is not None
            n_tokens = int(n_tokens / max(relative_time, 1.0))
        dictionary = self.make(kind, seed)
        start = time.process_time()
        fit(dictionary, self.data(seed), n_tokens, checkpoint=folder / "checkpoints", checkpoint_keep=1, resume=True)
        seconds = time.process_time() - start
        dictionary.save(folder / "dictionary")
        (folder / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
        return dictionary, seconds

    def relative_time(self, rounds: int = 3) -> float:
        """Returns the processor time of a step of a cross-layer distiller over that of per-layer distillers."""
        batch = self.batch(N_TIMED_STEPS * self.batch_size)
        times: dict[str, list[float]] = {"per layer": [], "cross layer": []}
        trained = {name: self.make(KINDS[name], 0) for name in times}
        for _ in range(1 + rounds):
            for name, dictionary in trained.items():
                start = time.process_time()
                fit(dictionary, batch, batch.n_tokens, batch_size=self.batch_size)
                times[name].append(time.process_time() - start)
        return median(cross / per for per, cross in zip(*(own[1:] for own in times.values()), strict=True))

    def batch(self, n_tokens: int) -> sd.Activations:
        """Returns stored activations as one batch."""
        return next(iter(self._store(n_tokens)))

    def _store(self, batch_size: int, seed: int = 0) -> sd.ActivationStore:
        return sd.ActivationStore(self.folder / "activations", batch_size=batch_size, seed=seed, dtype=torch.float32)


def fit(dictionary: sd.CrossLayerDistiller, data: Any, n_tokens: int, **options: Any) -> None:
    """Trains a dictionary with the recipe of `sparsedict demo`, with equal weight for every layer."""
    penalties = [sd.AuxK(dead_after=DEAD_AFTER)]
    sd.fit(
        dictionary,
        data,
        n_tokens=n_tokens,
        penalties=penalties,
        loss=sd.BalancedError(),
        optimizer=sd.training.LazyAdam,
        progress=False,
        **options,
    )


def load_model(name: str, n_tokens: int, n_held_out: int) -> tuple[nn.Module, str, Sequence[int], Tensor, Tensor]:
    """Returns a model, the paths of its MLPs, excluded ids, training tokens and held-out tokens."""
    if name == "embedded":
        tokens = sd.zoo.tokens("train", n_tokens=n_tokens)
        held_out = sd.zoo.tokens("evaluation", n_tokens=n_held_out)
        return sd.zoo.load_model(), "transformer.h.{}.mlp", [0], tokens, held_out
    model, tokens, held_out = stories.load(Path(os.environ["SPARSEDICT_TEST_DATA"]))
    held_out = held_out[: -(-n_held_out // stories.CONTEXT)]
    return model, "model.layers.{}.mlp", [stories.BOS], tokens[: -(-n_tokens // stories.CONTEXT)], held_out


def evaluated(comparison: Comparison, dictionary: sd.CrossLayerDistiller) -> dict[str, float]:
    """Returns the measurements with all MLPs replaced, and of each layer."""
    result = sd.evaluate(comparison.sites, dictionary, comparison.held_out)
    numbers, (use,) = result.to_dict(), result.dictionaries.values()
    return {
        "zero": numbers["loss_recovered_zero"],
        "mean": numbers["loss_recovered_mean"],
        "KL": numbers["kl"],
        "same token": numbers["agreement"],
        "loss": numbers["loss_replaced"],
        "L0": result.l0 / len(comparison.sites),
        "dead": use.dead.n_dead / use.n_latents,
        **{f"FVU {name}": own.fvu for name, own in result.sites.items()},
    }


def run(comparison: Comparison, kinds: Sequence[str], seeds: int, relative_time: float | None) -> Iterator[Rows]:
    """Trains and measures dictionaries. Yields the rows so far after each dictionary."""
    rows: Rows = {name: {} for name in kinds}
    batch = comparison.batch(N_LATENT_TOKENS)
    for seed in range(seeds):
        found: dict[str, LiveLatents] = {}
        for name in kinds:
            dictionary, seconds = comparison.trained(name, seed, relative_time)
            found[name] = LiveLatents.measure(dictionary, batch)
            row = evaluated(comparison, dictionary) | {"seconds": seconds} | duplicates(found[name])
            if name.startswith("cross layer"):
                row |= written_later(found[name])
                per_layer = "per layer, skip" if KINDS[name].skip else "per layer"
                row |= merged(found[per_layer], found[name]) if per_layer in found else {}
            for measurement, value in row.items():
                rows[name].setdefault(measurement, []).append(value)
            print(tables({f"{name}, seed {seed}": {key: [value] for key, value in row.items()}}), flush=True)
            yield {own: values for own, values in rows.items() if values}


def tables(rows: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Returns the measurements as three tables."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    first = names[: names.index("dead") + 1]
    fvu = [name for name in names if name.startswith("FVU")]
    others = [name for name in names if name not in (*first, *fvu, "seconds")]
    return "\n\n".join(table(rows, columns, ".4f") for columns in (first, [*fvu, "seconds"], others))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("embedded", "stories"), default="embedded", help="model to decompose")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="kinds to train")
    parser.add_argument("--n-latents", type=int, default=1024, help="latents of each layer")
    parser.add_argument("--k", type=int, default=32, help="active latents of each layer and token")
    parser.add_argument("--n-tokens", type=int, default=3_000_000, help="training tokens of each dictionary")
    parser.add_argument("--n-stored", type=int, default=None, help="different training tokens, at most 2,400,000")
    parser.add_argument("--n-held-out", type=int, default=20_000, help="tokens of the evaluation")
    parser.add_argument("--batch-size", type=int, default=512, help="tokens per step")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument(
        "--relative-time",
        type=float,
        default=None,
        help="time per step of a cross-layer distiller over that of per-layer distillers (default: measured)",
    )
    parser.add_argument("--folder", type=Path, default=None, help="folder that keeps activations and dictionaries")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    options = parser.parse_args()
    options.n_stored = options.n_stored or min(options.n_tokens, 2_400_000)
    model, path, excluded, tokens, held_out = load_model(options.model, options.n_stored, options.n_held_out)
    n_layers = sum(1 for name, _ in model.named_modules() if name.endswith(".mlp"))
    sites = sd.Sites(model, {str(i): path.format(i) for i in range(n_layers)}, exclude_tokens=excluded)
    with TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        stream = sd.ActivationStream(sites, tokens, batch_size=4096)
        stream.save_to(folder / "activations", dtype=torch.bfloat16, progress=False)
        sizes = {name: getattr(options, name) for name in ("n_latents", "k", "n_tokens", "batch_size")}
        comparison = Comparison(sites, folder, held_out, **sizes)
        relative_time = options.relative_time
        if relative_time is None and any(KINDS[kind].equal == "time" for kind in options.kinds):
            relative_time = comparison.relative_time()
            print(f"A step of 'cross layer' takes {relative_time:.2f} times as long as one of 'per layer'.", flush=True)
        names = ("model", "n_latents", "k", "n_tokens", "n_stored", "n_held_out", "batch_size", "seeds")
        settings = {name: getattr(options, name) for name in names} | {"relative_time": relative_time}
        out = options.out or RESULTS / f"cross_layer_{options.model}.json"
        rows: Rows = {}
        for rows in run(comparison, options.kinds, options.seeds, relative_time):
            out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(tables(rows))


if __name__ == "__main__":
    main()
