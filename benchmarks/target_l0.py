"""Accuracy of `sparsedict.TargetL0`: ``python -m benchmarks.target_l0``.

Trains JumpReLU autoencoders with default settings on three kinds of activations: sums of known features, and the
outputs of an MLP of the embedded model and of a TinyStories Llama, whose folder is ``SPARSEDICT_TEST_DATA``. Prints the
L0 and the error of each in evaluation mode on held-out tokens, and the error of TopK autoencoders with the same number
of latents per token.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sparsedict as sd
from benchmarks import stories
from benchmarks.report import RESULTS, machine, table, write
from sparsedict import zoo

KINDS = ("synthetic", "embedded", "stories")
N_DISTINCT, N_HELD_OUT = 200_000, 20_000


def activations(kind: str) -> tuple[Tensor, Tensor, int]:
    """Returns rows to train on, held-out rows, and the number of latents."""
    if kind == "synthetic":
        truth = sd.data.SyntheticFeatures(d=64, n_features=256, l0=8, seed=0)
        return truth.sample(N_DISTINCT, seed=1)[0].outputs, truth.sample(N_HELD_OUT, seed=2)[0].outputs, 512
    if kind == "embedded":
        site = sd.Site(zoo.load_model(), "transformer.h.1.mlp", exclude_tokens=[0])
        return _rows(site, zoo.tokens("train"), N_DISTINCT), _rows(site, zoo.tokens("evaluation"), N_HELD_OUT), 1024
    model, tokens, held_out = stories.load(Path(os.environ["SPARSEDICT_TEST_DATA"]))
    site = sd.Site(model, "model.layers.2.mlp", exclude_tokens=[stories.BOS])
    return _rows(site, tokens, N_DISTINCT), _rows(site, held_out, N_HELD_OUT), 1024


def _rows(site: sd.Site, tokens: Tensor, n_tokens: int) -> Tensor:
    stream = sd.ActivationStream(site, tokens, batch_size=n_tokens, buffer_size=n_tokens, seed=0)
    batch = next(iter(stream))
    assert isinstance(batch, sd.Activations)  # of one site
    return batch.outputs


def measured(
    rows: Tensor, held_out: Tensor, n_latents: int, seed: int, args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Returns L0 and FVU on held-out rows by the target, and for TopK by k."""
    trainees = {}
    for target in args.targets:
        jump, top_k = (
            sd.SparseAutoencoder(
                rows.shape[1],
                n_latents,
                activation=activation,
                decoder_norm=sd.UnitNorm(),
                generator=torch.Generator().manual_seed(seed),
            )
            for activation in (sd.JumpReLU(), sd.TopK(target))
        )
        trainees[f"target {target}"] = sd.Trainee(jump, [sd.TargetL0(target)])
        if args.top_k:
            trainees[f"TopK {target}"] = sd.Trainee(top_k)
    n_tokens = args.n_steps * args.batch_size
    sd.fit_many(trainees, rows, n_tokens=n_tokens, batch_size=args.batch_size, seed=seed, progress=False)
    found = {}
    for name, trainee in trainees.items():
        with torch.no_grad():
            latents = trainee.dictionary.encode_sparse(held_out)
            fvu = sd.metrics.fvu(trainee.dictionary.reconstruct(latents, held_out), held_out)
        found[name] = {"l0": float(sd.metrics.l0(latents)), "fvu": float(fvu)}
    return found


def summary(found: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]], targets: Sequence[int]) -> str:
    """Returns a table: one row for each kind and target, with all seeds."""
    rows: list[Sequence[str]] = [
        ("activations", "target", "L0 (lowest to highest seed)", "largest deviation", "FVU", "FVU of TopK")
    ]
    for kind, seeds in found.items():
        for target in targets:
            reached = [seed[f"target {target}"]["l0"] for seed in seeds]
            furthest = max((l0 / target - 1 for l0 in reached), key=abs)
            errors = [_mean_error(seeds, f"{way} {target}") for way in ("target", "TopK")]
            middle = f"{statistics.mean(reached):.1f} ({min(reached):.1f} to {max(reached):.1f})"
            rows.append((kind, f"{target}", middle, f"{furthest:+.1%}", *errors))
    return table(rows)


def _mean_error(seeds: Sequence[Mapping[str, Mapping[str, float]]], name: str) -> str:
    errors = [seed[name]["fvu"] for seed in seeds if name in seed]
    return f"{statistics.mean(errors):.4f}" if errors else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="activations (default: all)")
    parser.add_argument("--targets", nargs="+", type=int, default=[8, 16, 32, 64, 128], help="active latents per token")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of weights and batches")
    parser.add_argument("--n-steps", type=int, default=1000, help="optimiser steps (default: 1,000)")
    parser.add_argument("--batch-size", type=int, default=256, help="tokens per step (default: 256)")
    parser.add_argument(
        "--no-top-k", dest="top_k", action="store_false", help="train no TopK dictionaries for comparison"
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help=f"folder of target_l0.json, .txt (default: {RESULTS})"
    )
    args = parser.parse_args()
    kinds = [kind for kind in args.kinds if kind != "stories" or "SPARSEDICT_TEST_DATA" in os.environ]
    found: dict[str, list[Any]] = {}
    for kind in kinds:
        data = activations(kind)
        found[kind] = [measured(*data, seed, args) for seed in args.seeds]
        print(summary({kind: found[kind]}, args.targets), flush=True)
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    content = {"machine": machine(None, "cpu"), "settings": settings, "found": found}
    write("target_l0", args.out, content, summary(found, args.targets))


if __name__ == "__main__":
    main()
