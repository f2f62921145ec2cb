"""Per-layer against cross-layer distillers, with every MLP replaced: ``python -m benchmarks.cross_layer``.

One kind after the other is trained on all MLPs of a model, on the same tokens, and evaluated on held-out text:

- per layer: a sparse distiller for each MLP.
- per layer, skip: the same, with a linear skip each.
- cross layer: a cross-layer distiller with as many latents.
- cross layer, equal parameters: a cross-layer distiller with as many parameters as the per-layer distillers.
- cross layer, equal time: the cross-layer distiller with as many latents, trained on fewer tokens, so that it takes as
  long as the per-layer distillers.

All use TopK in each layer, unit decoder norms and AuxK. The table shows the loss recovered with all MLPs replaced at
once (zero and mean ablation), the KL divergence, the share of tokens with the same prediction, the FVU of each layer,
dead latents and training time; mean and range over seeds. It also shows the share of cross-layer latents that write
more than half of their squared norm to later layers, and the share of per-layer latents with a near copy in another
layer (decoder cosine above 0.7). A cross-layer latent can merge such copies.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

import sparsedict as sd
from benchmarks import stories

RESULTS = Path(__file__).parent / "results"
KINDS = ("per layer", "per layer, skip", "cross layer", "cross layer, equal parameters", "cross layer, equal time")
NEAR_COPY = 0.7
Dictionaries = sd.CrossLayerDistiller | dict[str, sd.SparseDistiller]


@dataclass
class Settings:
    """The settings of a comparison.

    Attributes:
        sites: The sites.
        tokens: Training tokens.
        held_out: Tokens of the evaluation.
        n_latents: Latents per layer of the distillers.
        k: Active latents per layer and token.
        n_tokens: Training tokens of each kind.
        batch_size: Tokens per step.
        seconds: Training time by kind, measured.
    """

    sites: sd.Sites
    tokens: Tensor
    held_out: Tensor
    n_latents: int
    k: int
    n_tokens: int
    batch_size: int
    seconds: dict[str, float] = field(default_factory=dict)


def load_model(name: str, n_tokens: int) -> tuple[nn.Module, str, Sequence[int], Tensor, Tensor]:
    """Returns a model, the paths of its MLPs, excluded ids, training tokens and held-out tokens."""
    if name == "embedded":
        tokens, held_out = sd.zoo.tokens("train", n_tokens=n_tokens), sd.zoo.tokens("evaluation", n_tokens=20_000)
        return sd.zoo.load_model(), "transformer.h.{}.mlp", [0], tokens, held_out
    model, tokens, held_out = stories.load(Path(os.environ["SPARSEDICT_TEST_DATA"]))
    return model, "model.layers.{}.mlp", [stories.BOS], tokens, held_out[: 20_000 // stories.CONTEXT]


def make(kind: str, settings: Settings, seed: int) -> Dictionaries:
    """Returns new dictionaries of a kind."""
    sites, n_latents = settings.sites, settings.n_latents
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, Any] = {"decoder_norm": sd.UnitNorm(), "generator": generator}
    if kind.startswith("per layer"):
        parts |= {"activation": sd.TopK(settings.k), "skip": "skip" in kind}
        return {name: sd.SparseDistiller(site.d_in, site.d_out, n_latents, **parts) for name, site in sites.items()}
    if kind == "cross layer, equal parameters":
        widths = [(site.d_in, site.d_out) for site in sites.values()]
        per_layer = sum(d_in + d_out for d_in, d_out in widths)
        cross_layer = sum(d_in + sum(d_out for _, d_out in widths[i:]) for i, (d_in, _) in enumerate(widths))
        n_latents = n_latents * per_layer // cross_layer
    return sd.CrossLayerDistiller(sites, n_latents, activation=sd.PerLayer(sd.TopK(settings.k)), **parts)


def train(kind: str, dictionaries: Dictionaries, settings: Settings, seed: int) -> None:
    """Trains dictionaries and records the time."""
    n_tokens = settings.n_tokens
    if kind == "cross layer, equal time":
        n_tokens = int(n_tokens * min(1.0, settings.seconds["per layer"] / settings.seconds["cross layer"]))
    data = sd.ActivationStream(settings.sites, settings.tokens, batch_size=settings.batch_size, seed=seed)
    penalties = [sd.AuxK(dead_after=30_000)]
    by_name = dictionaries if isinstance(dictionaries, dict) else {"all": dictionaries}
    trainees = {
        name: sd.Trainee(dictionary, penalties, site=name if isinstance(dictionaries, dict) else None)
        for name, dictionary in by_name.items()
    }
    start = time.perf_counter()
    sd.fit_many(trainees, data, n_tokens=n_tokens, progress=False)
    settings.seconds[kind] = time.perf_counter() - start


def measure(dictionaries: Dictionaries, settings: Settings) -> dict[str, float]:
    """Returns the measurements of trained dictionaries."""
    result = sd.evaluate(settings.sites, dictionaries, settings.held_out)
    numbers = result.to_dict()
    row = {
        "zero": numbers["loss_recovered_zero"],
        "mean": numbers["loss_recovered_mean"],
        "KL": numbers["kl"],
        "same token": numbers["agreement"],
        "L0": result.l0 / len(settings.sites),
        **{f"FVU {name}": own.fvu for name, own in result.sites.items()},
    }
    uses = result.dictionaries.values()
    row["dead"] = sum(use.dead.n_dead for use in uses) / sum(use.n_latents for use in uses)
    row |= near_copies(dictionaries) if isinstance(dictionaries, dict) else written_later(dictionaries)
    return row


@torch.no_grad()
def written_later(dictionary: sd.CrossLayerDistiller) -> dict[str, float]:
    """Returns the share of latents that write more than half of their squared norm to later layers."""
    rows = dictionary.decoder.split(dictionary.output_widths, dim=1)
    squares = torch.stack([block.square().sum(1) for block in rows], dim=1)
    last = dictionary.layers[-1].name
    own = torch.cat(
        [squares[dictionary.latents_of(layer.name), i] for i, layer in enumerate(dictionary.layers)]
    ) / squares.sum(1)
    return {"later": float((own[: dictionary.latents_of(last).start] < 0.5).float().mean())}


@torch.no_grad()
def near_copies(dictionaries: Mapping[str, sd.SparseDistiller]) -> dict[str, float]:
    """Returns the share of latents whose decoder row has a near copy in another layer."""
    rows = [torch.nn.functional.normalize(own.decoder, dim=1) for own in dictionaries.values()]
    found = [
        torch.stack([(own @ other.T).amax(1) for j, other in enumerate(rows) if j != i]).amax(0) > NEAR_COPY
        for i, own in enumerate(rows)
    ]
    return {"near copies": float(torch.cat(found).float().mean())}


def table(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Returns the mean and range of each measurement as text."""
    lines: list[str] = []
    for kind, by_seed in rows.items():
        lines.append(kind)
        for name in by_seed[0]:
            values = [row[name] for row in by_seed]
            lines.append(f"    {name:14}{mean(values):10.4f} ({min(values):.4f} to {max(values):.4f})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("embedded", "stories"), default="embedded", help="model to decompose")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds to train, in this order")
    parser.add_argument("--n-latents", type=int, default=1024, help="latents of each layer")
    parser.add_argument("--k", type=int, default=32, help="active latents of each layer and token")
    parser.add_argument("--n-tokens", type=int, default=3_000_000, help="training tokens")
    parser.add_argument("--batch-size", type=int, default=512, help="tokens per step")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    options = parser.parse_args()
    model, path, excluded, tokens, held_out = load_model(options.model, options.n_tokens)
    n_layers = sum(1 for name, _ in model.named_modules() if name.endswith(".mlp"))
    paths = {str(layer): path.format(layer) for layer in range(n_layers)}
    sites = sd.Sites(model, paths, exclude_tokens=excluded)
    rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in options.kinds}
    for seed in range(options.seeds):
        names = ("n_latents", "k", "n_tokens", "batch_size")
        settings = Settings(sites, tokens, held_out, **{name: getattr(options, name) for name in names})
        for kind in options.kinds:
            dictionaries = make(kind, settings, seed)
            train(kind, dictionaries, settings, seed)
            rows[kind].append(measure(dictionaries, settings) | {"seconds": settings.seconds[kind]})
            print(table({f"{kind}, seed {seed}": rows[kind][-1:]}), flush=True)
    print(table(rows))
    out = options.out or RESULTS / f"cross_layer_{options.model}.json"
    document = {"settings": {name: v for name, v in vars(options).items() if name != "out"}, "rows": rows}
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
