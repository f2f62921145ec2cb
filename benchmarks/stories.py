"""Distillers of all five MLPs of a real TinyStories Llama, trained in one call: ``python -m benchmarks.stories``.

The benchmark requires the folder of the model in ``SPARSEDICT_TEST_DATA``. One `fit_many` trains a dictionary for each
layer and each k on the same activations. Each dictionary then replaces its MLP on 100,000 held-out tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import sparsedict as sd

N_HELD_OUT = 100_000
N_LAYERS = 5
CONTEXT = 256
BOS = 1


def load(folder: Path):
    """Returns the model, training sequences and held-out sequences."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder / "stories260K").eval()
    tokens = torch.from_numpy(np.load(folder / "stories-train-tokens.npy").astype(np.int64))
    return model, _rows(tokens[:-N_HELD_OUT]), _rows(tokens[-N_HELD_OUT:])


def _rows(tokens: Tensor) -> Tensor:
    return tokens[: len(tokens) // CONTEXT * CONTEXT].view(-1, CONTEXT)


def make(kind: str, site: sd.Site, k: int, n_latents: int, seed: int) -> sd.Dictionary:
    """Returns a new dictionary of one kind for a site."""
    parts = {
        "activation": sd.TopK(k),
        "decoder_norm": sd.UnitNorm(),
        "generator": torch.Generator().manual_seed(seed),
    }
    if kind == "autoencoder":
        return sd.SparseAutoencoder(site.d_out, n_latents, **parts)
    return sd.SparseDistiller(site.d_in, site.d_out, n_latents, skip=kind == "skip", **parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["distiller"], choices=["distiller", "skip", "autoencoder"])
    parser.add_argument("--k", nargs="+", type=int, default=[32, 8], help="active latents per token")
    parser.add_argument("--layers", nargs="+", type=int, default=list(range(N_LAYERS)), help="indices of the MLPs")
    parser.add_argument("--n-latents", type=int, default=1024, help="width of each dictionary")
    parser.add_argument("--n-tokens", type=int, default=3_000_000, help="training tokens")
    parser.add_argument("--batch-size", type=int, default=1024, help="tokens per step")
    parser.add_argument("--lr", type=float, default=1e-2, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    args = parser.parse_args()

    model, tokens, held_out = load(Path(os.environ["SPARSEDICT_TEST_DATA"]))
    sites = {str(i): sd.Site(model, f"model.layers.{i}.mlp", exclude_tokens=[BOS]) for i in args.layers}
    stream = sd.ActivationStream(sites, tokens, batch_size=args.batch_size, seed=args.seed)
    penalties = [sd.AuxK(dead_after=100_000)]
    trainees = {
        f"{kind} {layer} {k}": sd.Trainee(
            make(kind, site, k, args.n_latents, args.seed), penalties, lr=args.lr, site=layer
        )
        for kind in args.kinds
        for layer, site in sites.items()
        for k in args.k
    }
    start = time.perf_counter()
    sd.fit_many(trainees, stream, n_tokens=args.n_tokens)
    seconds = time.perf_counter() - start
    rows = []
    print(f"{'kind':12}{'layer':>6}{'k':>4}{'FVU':>8}{'L0':>7}{'dead':>6}{'zero':>8}{'mean':>8}{'KL':>8}")
    for name, trainee in trainees.items():
        kind, layer, k = name.split()
        result = sd.evaluate(sites[layer], trainee.dictionary, held_out).to_dict()
        rows.append({"kind": kind, "layer": int(layer), "k": int(k), **result})
        zero, mean = result["loss_recovered_zero"], result["loss_recovered_mean"]
        print(
            f"{kind:12}{layer:>6}{k:>4}{result['fvu']:8.4f}{result['l0']:7.1f}{result['n_dead']:6}"
            f"{zero:8.4f}{mean:8.4f}{result['kl']:8.4f}",
            flush=True,
        )
    print(f"{seconds:.0f} s for {len(trainees)} dictionaries of {args.n_tokens:,} tokens")
    if args.out is not None:
        settings = {name: value for name, value in vars(args).items() if name != "out"}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"settings": settings, "seconds": seconds, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
