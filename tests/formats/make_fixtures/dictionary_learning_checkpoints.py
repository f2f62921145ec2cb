"""Writes checkpoints of dictionary_learning's seven classes, and what the library computes from them."""

from __future__ import annotations

import json
from typing import Any

import torch
from common import D_IN, N_LATENTS, K, inputs, keep, randomise_, target
from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary
from torch import nn

FOLDER = target("dictionary_learning")


def saved(case: str, dictionary: nn.Module, **trainer: Any) -> None:
    randomise_(dictionary, seed=len(case))
    folder = FOLDER / case
    folder.mkdir(exist_ok=True)
    torch.save(dictionary.state_dict(), folder / "ae.pt")
    config = {
        "dict_class": type(dictionary).__name__,
        "activation_dim": D_IN,
        "dict_size": N_LATENTS,
        "layer": 1,
        "lm_name": "tiny-stories",
        "submodule_name": "resid_post_layer_1",
        **trainer,
    }
    (folder / "config.json").write_text(json.dumps({"trainer": config, "buffer": {"d_submodule": D_IN}}))
    loaded, _ = load_dictionary(str(folder), "cpu")
    if isinstance(loaded, AutoEncoder):
        # By default the library rescales latents while loading; the weights of the file are what is compared here.
        loaded = AutoEncoder.from_pretrained(folder / "ae.pt", normalize_decoder=False)
    x = inputs()
    keep(folder, x, loaded.encode(x), loaded(x))


saved("auto_encoder", AutoEncoder(D_IN, N_LATENTS), dict_class="AutoEncoder")
saved("auto_encoder_new", AutoEncoderNew(D_IN, N_LATENTS), dict_class="AutoEncoderNew")
saved("gated", GatedAutoEncoder(D_IN, N_LATENTS))
saved("jump_relu", JumpReluAutoEncoder(D_IN, N_LATENTS))
saved("k_largest", AutoEncoderTopK(D_IN, N_LATENTS, K), k=K)
saved("k_on_average", BatchTopKSAE(D_IN, N_LATENTS, K), k=K, threshold_beta=0.9)
saved("matryoshka", MatryoshkaBatchTopKSAE(D_IN, N_LATENTS, K, [4, N_LATENTS - 4]), k=K)
