"""Writes dictionaries of every kind that each library has, by this library, and what it computes from them.

Run in this library's environment; `load_ours.py` then runs in the others'.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch
from common import D_IN, D_OUT, N_LATENTS, K, inputs, keep

import sparsedict as sd

OUT = Path(sys.argv[1])
ACTIVATIONS = {
    "relu": sd.ReLU(),
    "jumprelu": sd.JumpReLU(threshold=0.3),
    "topk": sd.TopK(K),
    "batchtopk": sd.BatchTopK(K),
    "abstopk": sd.AbsTopK(K),
    "gated": sd.Gated(),
    "groupmax": sd.GroupMax(K),
}
NORMS = {"": None, "_layer": sd.InputLayerNorm(), "_rms": sd.InputRMSNorm(), "_scale": sd.InputScale(1.7)}
PARTS = {"decoder_norm": sd.Free(), "generator": torch.Generator().manual_seed(5)}


def filled(dictionary: sd.Dictionary) -> sd.Dictionary:
    with torch.no_grad():
        for name, weight in dictionary.named_parameters():
            noise = torch.randn(weight.shape, generator=PARTS["generator"]) * 0.4
            weight.add_(noise if "threshold" not in name else noise.abs())
        for buffer in dictionary.buffers():
            buffer.fill_(0.5)
    dictionary.trained_on = {"model": "tiny-stories", "site": "blocks.0.mlp"}
    return dictionary


def autoencoders():
    for activation, offset, norm in itertools.product(ACTIVATIONS, ("decoder_bias", "own", "none"), NORMS):
        coder = sd.SparseAutoencoder(
            D_IN, N_LATENTS, activation=ACTIVATIONS[activation], input_offset=offset, input_norm=NORMS[norm], **PARTS
        )
        yield f"autoencoder_{activation}_{offset}{norm}", filled(coder)


def cross_layer():
    """Yields cross-layer distillers with different scales in each layer, and thresholds of 0.5."""
    layouts = {"later": sd.LaterLayers(), "next": sd.NextLayers(1), "tied": sd.TiedDecoders()}
    activations = {name: ACTIVATIONS[name] for name in ("relu", "jumprelu", "batchtopk")}
    activations["per_layer"] = sd.PerLayer(sd.BatchTopK(K))
    for activation, layout in itertools.product(activations, layouts):
        student = sd.CrossLayerDistiller(
            {"0": D_IN, "1": D_IN, "2": D_IN},
            N_LATENTS,
            activation=activations[activation],
            layout=layouts[layout],
            **PARTS,
        )
        filled(student).input_scale.copy_(torch.tensor([0.5, 1.0, 2.0]))
        student.output_scale.copy_(torch.tensor([1.5, 0.7, 1.0]))
        student.trained_on["site"] = [f"blocks.{layer}.mlp" for layer in range(3)]
        yield f"cross_layer_{activation}_{layout}", student


def distillers(d_out: int):
    for activation, bias, skip, norm in itertools.product(ACTIVATIONS, (False, True), (False, True), NORMS):
        student = sd.SparseDistiller(
            D_IN,
            d_out,
            N_LATENTS,
            activation=ACTIVATIONS[activation],
            input_bias=bias,
            skip=skip,
            input_norm=NORMS[norm],
            **PARTS,
        )
        yield f"distiller_{activation}{'_bias' * bias}{'_skip' * skip}{norm}_{d_out}", filled(student)


WRITERS = {
    "sae_lens": sd.formats.sae_lens.write,
    "sparsify": sd.formats.sparsify.write,
    "circuit_tracer": sd.formats.circuit_tracer.write,
}
for library, write in WRITERS.items():
    n_written = n_refused = 0
    for name, dictionary in [*autoencoders(), *distillers(D_IN), *distillers(D_OUT), *cross_layer()]:
        folder = OUT / library / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(dictionary, folder)
        except (TypeError, ValueError):
            n_refused += 1
            continue
        n_written += 1
        x = inputs(width=dictionary.d_in)
        keep(folder, x, *dictionary(x))
    print(f"{library}: {n_written} written, {n_refused} refused")
