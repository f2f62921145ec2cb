"""A cross-layer transcoder of sparsedict and of decode-clt on the same data: ``python -m benchmarks.cross_layer_peer``.

Both are trained on the same activations of all MLPs of the embedded model, in the same order, with BatchTopK over all
layers, as many latents and active latents, the same batch size, and auxiliary losses for dead latents. sparsedict uses
its default learning rate and Adam, decode-clt each of several learning rates with its default optimiser and schedule.
The benchmark shows the processor time of a step (median; one thread) and the FVU of each layer on held-out tokens: mean
and range over seeds of the initial weights. Both select the active latents of the held-out tokens as in training.
Requires decode-clt; see README.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

import sparsedict as sd
from benchmarks.contenders._decode_clt import ByLayer, trainer
from benchmarks.spread import table

RESULTS = Path(__file__).parent / "results" / "cross_layer_peer.json"
N_HELD_OUT = 8_192
AUXILIARY = 1 / 32


class Clock:
    """Yields batches and measures the processor time between them.

    Attributes:
        seconds: Time of each step but the first.
    """

    def __init__(self, batches: list[Any]) -> None:
        self._batches = batches
        self.seconds: list[float] = []

    def __iter__(self) -> Iterator[Any]:
        start = None
        for batch in self._batches:
            if start is not None:
                self.seconds.append(time.process_time() - start)
            start = time.process_time()
            yield batch

    @property
    def median(self) -> float:
        """Median of the steps after the first two."""
        return median(self.seconds[2:])


def ours(batches: list[sd.Activations], held_out: sd.Activations, sizes: dict[str, Any], seed: int) -> dict[str, Any]:
    """Trains with sparsedict."""
    d, n_layers = sizes["d"], sizes["n_layers"]
    activation = sd.BatchTopK(sizes["k"])
    dictionary = sd.CrossLayerDistiller(
        {str(layer): d for layer in range(n_layers)},
        sizes["n_latents"],
        activation=activation,
        decoder_norm=sd.UnitNorm(),
        generator=torch.Generator().manual_seed(seed),
    )
    clock = Clock(batches)
    n_tokens = sum(batch.n_tokens for batch in batches)
    penalties = [sd.AuxK(dead_after=30_000, coefficient=AUXILIARY)]
    sd.fit(dictionary, iter(clock), n_tokens=n_tokens, penalties=penalties, progress=False)
    inputs, targets = dictionary.select(held_out)
    dictionary.train()
    with torch.no_grad():
        latents, outputs = dictionary(inputs)
    pairs = zip(outputs.split(d, dim=1), targets.split(d, dim=1), strict=True)
    return result([sd.metrics.fvu(*pair) for pair in pairs], latents, clock)


def theirs(
    batches: list[sd.Activations], held_out: sd.Activations, sizes: dict[str, Any], lr: float, seed: int
) -> dict[str, Any]:
    """Trains with decode-clt."""
    layers = range(sizes["n_layers"])
    moments = {
        role: {layer: _moments([batch[f"{layer}.{role}"] for batch in batches[:64]]) for layer in layers}
        for role in ("inputs", "outputs")
    }

    def standardised(batch: sd.Activations) -> tuple[ByLayer, ByLayer]:
        inputs, outputs = (
            {layer: (batch[f"{layer}.{role}"] - own[0]) / own[1] for layer, own in moments[role].items()}
            for role in ("inputs", "outputs")
        )
        return inputs, outputs

    clock = Clock([standardised(batch) for batch in batches])
    means, stds = ({layer: own[index] for layer, own in moments["outputs"].items()} for index in (0, 1))
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(
            iter(clock),
            **sizes,
            n_steps=len(batches),
            lr=lr,
            mean=means,
            std=stds,
            folder=folder,
            aux_loss_factor=AUXILIARY,
            seed=seed,
            dead_feature_window=30_000 // batches[0].n_tokens,
            apply_sparsity_penalty_to_batchtopk=False,
        )
        made.train()
    inputs, _ = standardised(held_out)
    with torch.no_grad():
        latents = torch.cat(list(made.model.get_feature_activations(inputs).values()), dim=1)
        outputs = made.model(inputs)
    fvu = [
        sd.metrics.fvu(outputs[layer] * stds[layer] + means[layer], held_out[f"{layer}.outputs"]) for layer in layers
    ]
    return result(fvu, latents, clock) | {"lr": lr}


def _moments(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    rows = torch.cat(parts)
    return rows.mean(0, keepdim=True), rows.std(0, keepdim=True) + 1e-6


def result(fvu: Sequence[Tensor | float], latents: Tensor, clock: Clock) -> dict[str, Any]:
    """Returns the numbers of a trained dictionary."""
    active = latents != 0
    return {
        "milliseconds": 1000 * clock.median,
        "fvu": [float(own) for own in fvu],
        "l0": float(active.sum(1).float().mean()),
        "dead": float((~active.any(0)).float().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-latents", type=int, default=1024, help="latents of each layer")
    parser.add_argument("--k", type=int, default=32, help="active latents of each layer and token, on average")
    parser.add_argument("--n-tokens", type=int, default=100_000, help="training tokens")
    parser.add_argument("--batch-size", type=int, default=512, help="tokens per step")
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-3, 3e-3], help="learning rates of decode-clt")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds of the initial weights")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file to write, after each seed")
    parser.add_argument("--resume", action="store_true", help="continue with the seeds that the file lacks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sites = sd.Sites(sd.zoo.load_model(), {str(i): f"transformer.h.{i}.mlp" for i in range(4)}, exclude_tokens=[0])
    tokens = sd.zoo.tokens("train", n_tokens=int(1.05 * options.n_tokens) + 4096)
    stream = sd.ActivationStream(sites, tokens, batch_size=options.batch_size)
    batches = [batch for batch, _ in zip(stream, range(options.n_tokens // options.batch_size), strict=False)]
    held_tokens = sd.zoo.tokens("evaluation", n_tokens=2 * N_HELD_OUT)
    held_out = next(iter(sd.ActivationStream(sites, held_tokens, batch_size=N_HELD_OUT)))
    sizes = {"d": sites["0"].d_in, "n_layers": len(sites), "n_latents": options.n_latents, "k": 4 * options.k}
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "resume")}
    rows: dict[str, list[dict[str, Any]]] = {}
    if options.resume and options.out.exists():
        document = json.loads(options.out.read_text(encoding="utf-8"))
        if document["settings"] | {"seeds": 0} != settings | {"seeds": 0}:
            parser.error(f"--resume needs the settings of {options.out}, which are {document['settings']}")
        rows = document["rows"]
    for seed in range(len(rows.get("sparsedict", [])), options.seeds):
        found = {"sparsedict": ours(batches, held_out, sizes, seed)}
        for lr in options.lr:
            found[f"decode-clt, lr {lr:g}"] = theirs(batches, held_out, sizes, lr, seed)
        for name, row in found.items():
            rows.setdefault(name, []).append(row)
        document = {"settings": settings | {"seeds": seed + 1}, "rows": rows}
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table({name: measurements(own) for name, own in rows.items()}, form=".3f"))


def measurements(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Returns one value per seed, by measurement."""
    found = {
        "ms per step": [row["milliseconds"] for row in rows],
        "mean FVU": [mean(row["fvu"]) for row in rows],
        "L0": [row["l0"] for row in rows],
        "never active": [row["dead"] for row in rows],
    }
    for layer in range(len(rows[0]["fvu"])):
        found[f"FVU {layer}"] = [row["fvu"][layer] for row in rows]
    return found


if __name__ == "__main__":
    main()
