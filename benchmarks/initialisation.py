"""Comparison of initialisations: ``python -m benchmarks.initialisation``.

Trains distillers and autoencoders of one MLP of the embedded model with several initialisations, with and without a
warm-up of the learning rate, on the same tokens. Prints the error of each on held-out tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

import sparsedict as sd
from sparsedict import zoo
from sparsedict.batches import ActivationBatch, Activations

Start = Callable[[sd.Dictionary, Tensor, Tensor], None]


def scaled(norm: float) -> Start:
    """Random decoder rows; encoder rows random, or tied for an autoencoder, of the given norm; the mean as bias."""

    def start(dictionary: sd.Dictionary, inputs: Tensor, targets: Tensor) -> None:
        with torch.no_grad():
            dictionary.encoder.mul_(norm)
            dictionary.decoder_bias.copy_(targets.mean(0))

    return start


def response(norm: float) -> Start:
    """Random decoder rows; encoder rows along which the input best predicts the target along the decoder row."""

    def start(dictionary: sd.Dictionary, inputs: Tensor, targets: Tensor) -> None:
        with torch.no_grad():
            dictionary.decoder_bias.copy_(targets.mean(0))
            encoded = dictionary.encoder_inputs(inputs)
            centred = encoded - encoded.mean(0)
            gram = centred.T @ centred
            gram.diagonal().mul_(1.01)
            linear = torch.linalg.solve(gram, centred.T @ (targets - targets.mean(0)))
            dictionary.encoder.copy_(functional.normalize(dictionary.decoder @ linear.T, dim=-1) * norm)
            dictionary.encoder_bias.copy_(-(dictionary.encoder @ encoded.mean(0)))

    return start


def from_tokens(dictionary: sd.Dictionary, inputs: Tensor, targets: Tensor) -> None:
    """The initialisation of the library, in which each latent starts at a token."""
    dictionary.initialise_(inputs, targets)


STARTS: dict[str, Start] = {
    "random rows, norm 1": scaled(1.0),
    "random rows, norm 0.1": scaled(0.1),
    "linear response, norm 0.1": response(0.1),
    "one token a latent, whitened": from_tokens,
}


def harvest(layer: int, split: zoo.Split, n_tokens: int) -> tuple[sd.Site, Activations]:
    """Returns the activations of one MLP of the embedded model."""
    site = sd.Site(zoo.load_model(), f"transformer.h.{layer}.mlp", exclude_tokens=[0])
    tokens = zoo.tokens(split, n_tokens=n_tokens)
    parts = [site.capture(block).batch() for block in tokens.split(16)]
    return site, ActivationBatch(torch.cat([p.inputs for p in parts]), torch.cat([p.outputs for p in parts]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--layer", type=int, default=2, help="index of the MLP")
    parser.add_argument("--n-tokens", type=int, default=400_000, help="training tokens")
    parser.add_argument("--lr", type=float, default=1e-2, help="peak learning rate")
    args = parser.parse_args()
    site, data = harvest(args.layer, "train", args.n_tokens)
    _, held_out = harvest(args.layer, "evaluation", 50_000)
    print(f"{'kind':13}{'start':31}{'warm-up':>8}{'FVU':>8}{'dead':>7}  of {4 * site.neurons.n:,}")
    for kind in ("distiller", "autoencoder"):
        for name, start in STARTS.items():
            for warm_up in (0.0, 0.2):
                dictionary = make(kind, site)
                inputs, targets = dictionary.select(data)
                n_latents = dictionary.n_latents
                start(dictionary, inputs[:n_latents], targets[:n_latents])
                settings = {"lr": args.lr, "batch_size": 1024, "schedule": sd.Cosine(warm_up=warm_up)}
                sd.fit(dictionary, data, n_tokens=args.n_tokens, progress=False, **settings)
                fvu, dead = measure(dictionary, held_out)
                print(f"{kind:13}{name:31}{warm_up:8.1f}{fvu:8.4f}{dead:7}", flush=True)


def make(kind: str, site: sd.Site) -> sd.Dictionary:
    """Returns a new TopK dictionary, k 32, of four times the MLP's width."""
    parts = {
        "activation": sd.TopK(32),
        "decoder_norm": sd.UnitNorm(),
        "generator": torch.Generator().manual_seed(0),
    }
    if kind == "autoencoder":
        return sd.SparseAutoencoder(site.d_out, 4 * site.neurons.n, **parts)
    return sd.SparseDistiller(site.d_in, site.d_out, 4 * site.neurons.n, **parts)


@torch.no_grad()
def measure(dictionary: sd.Dictionary, held_out: Activations) -> tuple[float, int]:
    """Returns FVU and the number of dead latents on held-out tokens."""
    inputs, targets = dictionary.select(held_out)
    latents = dictionary.encode_sparse(inputs)
    fvu = sd.metrics.fvu(dictionary.reconstruct(latents, inputs), targets)
    return float(fvu), int((latents.firing_counts() == 0).sum())


if __name__ == "__main__":
    main()
