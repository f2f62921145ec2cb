"""Writes circuit-tracer and Gemma Scope checkpoints, and what circuit-tracer computes from them."""

from __future__ import annotations

import numpy as np
import torch
from circuit_tracer.transcoder.activation_functions import JumpReLU
from circuit_tracer.transcoder.single_layer_transcoder import (
    SingleLayerTranscoder,
    TranscoderSet,
    load_gemma_scope_2_transcoder,
    load_gemma_scope_transcoder,
    load_transcoder_set,
)
from common import D_IN, N_LATENTS, inputs, keep, randomise_, target
from safetensors.torch import save_file
from torch.nn import functional

FOLDER = target("circuit_tracer")
GEMMA = target("gemma_scope")
PLACE = {"device": torch.device("cpu"), "dtype": torch.float32}
CONFIG = """model_name: "tiny-stories"
model_kind: "transcoder_set"
feature_input_hook: "mlp.hook_in"
feature_output_hook: "mlp.hook_out"
"""


def saved(case: str, *, n_layers: int = 1, jumps: bool = False, skip: bool = False) -> None:
    folder = FOLDER / case
    layers = {}
    for layer in range(n_layers):
        function = JumpReLU(torch.zeros(N_LATENTS), 0.1) if jumps else functional.relu
        layers[layer] = SingleLayerTranscoder(D_IN, N_LATENTS, function, layer, skip_connection=skip, **PLACE)
        randomise_(layers[layer], seed=len(case) + layer)
    TranscoderSet(layers, "mlp.hook_in", "mlp.hook_out").to_safetensors(str(folder))
    (folder / "config.yaml").write_text(CONFIG)
    paths = {layer: str(folder / f"layer_{layer}.safetensors") for layer in layers}
    loaded = load_transcoder_set(paths, "scan", "mlp.hook_in", "mlp.hook_out", **PLACE)
    x = inputs()
    for layer in range(n_layers):
        name = folder.with_name(f"{case}.{layer}") if n_layers > 1 else folder
        keep(name, x, loaded[layer].encode(x), loaded[layer](x))


def gemma(case: str, tensors: dict[str, torch.Tensor], second: bool) -> None:
    folder = GEMMA / case
    folder.mkdir(exist_ok=True)
    file = folder / ("params.safetensors" if second else "params.npz")
    if second:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    else:
        np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
    load = load_gemma_scope_2_transcoder if second else load_gemma_scope_transcoder
    loaded = load(str(file), 0, **PLACE)
    x = inputs()
    keep(folder, x, loaded.encode(x), loaded(x))


def drawn(seed: int, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    shapes = ((D_IN, N_LATENTS), (N_LATENTS, D_IN), (N_LATENTS,), (D_IN,))
    generator = torch.Generator().manual_seed(seed)
    tensors = {n: torch.randn(s, generator=generator) * 0.6 for n, s in zip(names, shapes, strict=True)}
    return tensors | {"threshold": torch.rand(N_LATENTS, generator=generator)}


saved("relu")
saved("jump_relu", jumps=True)
saved("skip", skip=True)
saved("jump_relu_skip", jumps=True, skip=True)
saved("two_layers", n_layers=2, jumps=True)
gemma("first", drawn(1, ("W_enc", "W_dec", "b_enc", "b_dec")), second=False)
gemma("second", drawn(2, ("w_enc", "w_dec", "b_enc", "b_dec")), second=True)
skip = {"affine_skip_connection": torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(9))}
gemma("second_affine", drawn(3, ("w_enc", "w_dec", "b_enc", "b_dec")) | skip, second=True)
