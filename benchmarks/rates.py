"""Best peak learning rate by kind and width: ``python -m benchmarks.rates``.

Trains dictionaries at multiples of `sparsedict.training.default_lr` on one MLP of the embedded model (width 128, 512
neurons), and of a TinyStories Llama (width 64) if ``SPARSEDICT_TEST_DATA`` is its folder. Prints the unexplained
variance of each dictionary on held-out tokens.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch

import sparsedict as sd
from benchmarks import stories
from benchmarks.report import RESULTS, machine, table
from sparsedict import zoo
from sparsedict.batches import Activations
from sparsedict.metrics import fvu
from sparsedict.training import RelativeLR, default_lr

K = 32
FACTORS = (0.2, 0.5, 1.0, 2.0, 4.0)
KINDS = ("distiller", "autoencoder", "neurons")


def sites(layer: int) -> dict[str, tuple[sd.Site, torch.Tensor, torch.Tensor]]:
    """Returns a site, text to train on and held-out text, by the model's name."""
    embedded = sd.Site(zoo.load_model(), f"transformer.h.{layer}.mlp", exclude_tokens=[0])
    found = {"embedded": (embedded, zoo.tokens("train"), zoo.tokens("evaluation"))}
    if "SPARSEDICT_TEST_DATA" in os.environ:
        model, tokens, held_out = stories.load(Path(os.environ["SPARSEDICT_TEST_DATA"]))
        llama = sd.Site(model, f"model.layers.{layer}.mlp", exclude_tokens=[stories.BOS])
        found["stories"] = (llama, tokens, held_out)
    return found


def activations(site: sd.Site, tokens: torch.Tensor, n_tokens: int) -> Activations:
    """Returns the first activations of a text as one batch."""
    stream = sd.ActivationStream(site, tokens, batch_size=n_tokens, buffer_size=n_tokens, seed=0, neurons=True)
    batch = next(iter(stream))
    assert isinstance(batch, Activations)  # of one site
    return batch


def make(kind: str, batch: Activations, n_latents: int) -> sd.Dictionary:
    """Returns a new dictionary of one kind."""
    parts: dict[str, Any] = {
        "activation": sd.TopK(K),
        "decoder_norm": sd.UnitNorm(),
        "generator": torch.Generator().manual_seed(0),
    }
    if kind == "distiller":
        return sd.SparseDistiller(batch.inputs.shape[1], batch.outputs.shape[1], n_latents, **parts)
    if kind == "neurons":
        assert batch.neurons is not None  # asked for
        return sd.SparseAutoencoder(batch.neurons.shape[1], n_latents, reads="neurons", **parts)
    return sd.SparseAutoencoder(batch.outputs.shape[1], n_latents, **parts)


def errors(
    kind: str, batch: Activations, held_out: Activations, n_latents: int, args: argparse.Namespace
) -> dict[float, float]:
    """Returns the unexplained share of variance by the multiple of the default rate."""
    trainees = {}
    for factor in FACTORS:
        dictionary = make(kind, batch, n_latents)
        trainees[f"{factor:g}"] = sd.Trainee(dictionary, lr=RelativeLR(factor * default_lr(dictionary)))
    sd.fit_many(trainees, batch, n_tokens=args.n_tokens, batch_size=args.batch_size, seed=0, progress=False)
    found = {}
    for name, trainee in trainees.items():
        inputs, targets = trainee.dictionary.select(held_out)
        with torch.no_grad():
            found[float(name)] = float(fvu(trainee.dictionary(inputs).reconstruction, targets))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", type=int, default=1, help="index of the MLP (default: 1)")
    parser.add_argument("--n-latents", nargs="+", type=int, default=[512, 2048, 8192], help="numbers of latents")
    parser.add_argument("--n-tokens", type=int, default=300_000, help="training tokens (default: 300,000)")
    parser.add_argument(
        "--n-distinct", type=int, default=150_000, help="number of distinct training tokens (default: 150,000)"
    )
    parser.add_argument("--batch-size", type=int, default=1024, help="tokens per step (default: 1,024)")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"folder of rates.json and .txt (default: {RESULTS})")
    args = parser.parse_args()
    rows = [("FVU at multiples of the default rate", "the default", *(f"{factor:g}" for factor in FACTORS))]
    content: list[dict[str, Any]] = []
    for name, (site, tokens, held_out) in sites(args.layer).items():
        batch, other = activations(site, tokens, args.n_distinct), activations(site, held_out, 10_000)
        for kind in KINDS:
            for n_latents in args.n_latents:
                found = errors(kind, batch, other, n_latents, args)
                dictionary = make(kind, batch, n_latents)
                label = f"{name}, {kind}, {dictionary.d_in} x {n_latents:,}"
                rate = default_lr(dictionary)
                rows.append((label, f"{rate:.2e}", *(f"{error:.3f}" for error in found.values())))
                content.append({"model": name, "kind": kind, "d_in": dictionary.d_in, "n_latents": n_latents})
                content[-1] |= {"default_lr": rate, "fvu": {str(factor): error for factor, error in found.items()}}
                print(table([rows[0], rows[-1]]), flush=True)
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(None, "cpu"), "settings": settings, "rows": content}, indent=1)
    (args.out / "rates.json").write_text(text + "\n", encoding="utf-8")
    (args.out / "rates.txt").write_text(table(rows) + "\n", encoding="utf-8")
    print("\n" + table(rows))


if __name__ == "__main__":
    main()
