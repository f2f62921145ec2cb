"""Writes cross-layer transcoders with llamascopium 2.0.0b34, and their outputs (see README.md)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from llamascopium.models.clt import CLTConfig, CrossLayerTranscoder  # pyright: ignore[reportMissingImports]
from safetensors.torch import save_file

D, N_LAYERS = 6, 3
INS = [f"blocks.{i}.ln2.hook_normalized" for i in range(N_LAYERS)]
OUTS = [f"blocks.{i}.hook_mlp_out" for i in range(N_LAYERS)]
CASES: dict[str, dict[str, Any]] = {
    "jumprelu": {"act_fn": "jumprelu", "norm_activation": "dataset-wise"},
    "relu": {"act_fn": "relu", "norm_activation": "inference", "sparsity_include_decoder_norm": False},
    "topk": {"act_fn": "topk", "top_k": 3, "norm_activation": "dataset-wise"},
    "layertopk": {"act_fn": "layertopk", "top_k": 7, "norm_activation": "inference"},
}


@torch.no_grad()
def write(folder: Path, options: dict[str, Any]) -> None:
    cfg = CLTConfig(
        sae_type="clt", d_model=D, expansion_factor=2.0, hook_points_in=INS, hook_points_out=OUTS, device="cpu",
        dtype=torch.float32, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    clt = CrossLayerTranscoder(cfg)
    for weight in clt.parameters():
        weight.copy_(0.5 * torch.randn_like(weight))
    norms = {point: 1.5 + 0.4 * index for index, point in enumerate([*INS, *OUTS])}
    clt.set_dataset_average_activation_norm(norms)
    factors = {name: D**0.5 / norm if "data" in options["norm_activation"] else 1.0 for name, norm in norms.items()}
    x = torch.randn(20, N_LAYERS, D)
    scaled = x * torch.tensor([factors[name] for name in INS])[:, None]
    latents = clt.encode(scaled)
    outputs = clt.decode(latents, batch_first=True) / torch.tensor([factors[name] for name in OUTS])[:, None]
    # sparsedict includes the norms of decoder rows in the latents.
    latents = latents * clt.decoder_norm_per_feature() if cfg.sparsity_include_decoder_norm else latents
    folder.mkdir(parents=True, exist_ok=True)
    clt.save_checkpoint(folder / "sae_weights.safetensors")
    cfg.save_hyperparameters(folder)
    forward = {"inputs": x, "latents": latents, "outputs": outputs}
    forward = {name: value.flatten(1).contiguous() for name, value in forward.items()}
    save_file(forward, folder.parent / f"{folder.name}.forward.safetensors")
    print(folder.name, json.loads((folder / "config.json").read_text(encoding="utf-8"))["act_fn"], outputs.std())


if __name__ == "__main__":
    for name, options in CASES.items():
        write(Path(sys.argv[1]) / "llamascopium" / name, options)
