"""Trains dictionaries at the MLP of a small GPT-2, writes them for SAELens, and notes the losses with them spliced in.

Run in this library's environment; `splice_ours.py` then runs in SAELens'.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from common import gpt2, keep

import sparsedict as sd

OUT = Path(sys.argv[1]) / "spliced"
PARTS = {"decoder_norm": sd.UnitNorm(), "generator": torch.Generator().manual_seed(5)}
CASES = {
    "autoencoder_topk": sd.SparseAutoencoder(16, 64, activation=sd.TopK(4), **PARTS),
    "autoencoder_relu": sd.SparseAutoencoder(16, 64, activation=sd.ReLU(), **PARTS),
    "autoencoder_neurons": sd.SparseAutoencoder(64, 128, activation=sd.TopK(4), reads="neurons", **PARTS),
    "transcoder_relu": sd.SparseDistiller(16, 16, 64, activation=sd.ReLU(), **PARTS),
    "transcoder_skip": sd.SparseDistiller(16, 16, 64, activation=sd.BatchTopK(4), skip=True, **PARTS),
    "transcoder_topk": sd.SparseDistiller(16, 16, 64, activation=sd.TopK(4), **PARTS),
}

model, tokens = gpt2()
OUT.mkdir(parents=True, exist_ok=True)
site = sd.Site(model, "transformer.h.1.mlp")
stream = sd.ActivationStream(site, tokens, batch_size=256, neurons=True)


@torch.no_grad()
def loss() -> float:
    logits = model(tokens).logits[:, :-1]
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))


losses = {"plain": loss()}
captured = site.capture(tokens, neurons=True)
for name, dictionary in CASES.items():
    sd.fit(dictionary, stream, n_tokens=10_000, progress=False)
    if name == "transcoder_topk":
        calibration = sd.calibrate_threshold(
            dictionary, (captured.inputs.flatten(0, 1), captured.outputs.flatten(0, 1))
        )
        print(calibration)
        dictionary = calibration.dictionary
    sd.formats.sae_lens.write(dictionary, OUT / name, model_name="gpt2")
    with torch.no_grad():
        x = getattr(captured, dictionary.reads)
        keep(OUT / name, x.flatten(0, 1), *(part.flatten(0, 1) for part in dictionary(x)))
        with site.replaced(dictionary):
            losses[name] = loss()
(OUT / "losses.json").write_text(json.dumps(losses, indent=2))
print(losses)
