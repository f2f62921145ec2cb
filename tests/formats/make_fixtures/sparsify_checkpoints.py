"""Writes sparsify checkpoints of every kind, and what sparsify computes from them."""

from __future__ import annotations

from typing import Any

import torch
from common import D_IN, N_LATENTS, K, inputs, keep, randomise_, target
from sparsify import SparseCoder, SparseCoderConfig

FOLDER = target("sparsify")


def saved(case: str, **cfg: Any) -> None:
    coder = SparseCoder(D_IN, SparseCoderConfig(**{"expansion_factor": N_LATENTS // D_IN, "k": K, **cfg}))
    randomise_(coder, seed=len(case))
    if cfg.get("normalize_decoder"):
        coder.set_decoder_norm_to_unit_norm()
    coder.save_to_disk(FOLDER / case)
    loaded = SparseCoder.load_from_disk(FOLDER / case)
    x = inputs()
    acts, indices, _ = loaded.encode(x)
    # `forward` decodes the 4 k largest where the configuration says multi_topk, a loss of training.
    output = loaded.decode(acts, indices) if loaded.cfg.multi_topk else loaded(x).sae_out
    keep(FOLDER / case, x, torch.zeros(len(x), N_LATENTS).scatter(-1, indices, acts), output)


saved("autoencoder", normalize_decoder=True)
saved("autoencoder_free", normalize_decoder=False, num_latents=N_LATENTS)
saved("autoencoder_multi", normalize_decoder=False, multi_topk=True, expansion_factor=7, num_latents=N_LATENTS)
saved("autoencoder_groupmax", activation="groupmax", normalize_decoder=False)
saved("autoencoder_skip", skip_connection=True, normalize_decoder=False)
saved("transcoder", transcode=True, normalize_decoder=False)
saved("transcoder_groupmax", transcode=True, activation="groupmax", normalize_decoder=False)
saved("transcoder_skip", transcode=True, skip_connection=True, normalize_decoder=False)
