"""Writes cross-layer transcoders of circuit-tracer and in the layout of Gemma Scope 2, and computes their outputs.

circuit-tracer computes latents ``[n_layers, n_tokens, n_latents]``. The files hold them as ``[n_tokens, all latents]``.
Its loader of Gemma Scope 2 leaves out the last layer. It is therefore called with one path more than there are layers.
"""

from __future__ import annotations

from pathlib import Path

import torch
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_clt, load_gemma_scope_2_clt
from common import D_IN, N_LATENTS, N_TOKENS, keep, randomise_, target
from safetensors.torch import save_file

FOLDER = target("circuit_tracer_clt")
GEMMA = target("gemma_scope_clt")
PLACE = {"device": torch.device("cpu"), "dtype": torch.float32}
N_LAYERS = 3
CONFIG = """model_name: "tiny-stories"
model_kind: "cross_layer_transcoder"
feature_input_hook: "mlp.hook_in"
feature_output_hook: "mlp.hook_out"
"""


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.6


def compared(folder: Path, transcoder: CrossLayerTranscoder) -> None:
    x = drawn(N_LAYERS, N_TOKENS, D_IN, seed=7) + 0.3
    with torch.no_grad():
        latents = transcoder.encode(x)
        outputs = transcoder.decode(latents.to_sparse(), x)
    keep(folder, *(tensor.transpose(0, 1).flatten(1) for tensor in (x, latents, outputs)))


def saved(case: str, activation: str) -> None:
    folder = FOLDER / case
    made = CrossLayerTranscoder(N_LAYERS, N_LATENTS, D_IN, activation, lazy_decoder=False, **PLACE)
    randomise_(made, seed=len(case))
    made.to_safetensors(str(folder))
    (folder / "config.yaml").write_text(CONFIG)
    compared(folder, load_clt(str(folder), "mlp.hook_in", "mlp.hook_out", **PLACE))


def gemma(case: str, *, affine: bool) -> None:
    folder = GEMMA / case
    folder.mkdir(exist_ok=True)
    shapes = {"w_enc": (D_IN, N_LATENTS), "w_dec": (N_LATENTS, N_LAYERS, D_IN), "b_enc": (N_LATENTS,), "b_dec": (D_IN,)}
    shapes |= {"affine_skip_connection": (D_IN, D_IN)} if affine else {}
    paths = {}
    for layer in range(N_LAYERS):
        tensors = {name: drawn(*shape, seed=10 * layer + i) for i, (name, shape) in enumerate(shapes.items())}
        tensors["w_dec"][:, :layer] = 0
        tensors["threshold"] = drawn(N_LATENTS, seed=100 + layer).abs()
        paths[layer] = str(folder / f"params_layer_{layer}.safetensors")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, paths[layer])
    compared(folder, load_gemma_scope_2_clt(paths | {N_LAYERS: ""}, **PLACE))


saved("relu", "relu")
saved("jump_relu", "jump_relu")
gemma("plain", affine=False)
gemma("affine", affine=True)
