"""Loads by a released library what this library wrote (`write_ours.py`), and compares the outputs.

python load_ours.py FOLDER sae_lens|sparsify|circuit_tracer
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

warnings.simplefilter("ignore")
TOLERANCE = 1e-5


def sae_lens() -> Callable[[Path, Tensor], tuple[Tensor, Tensor]]:
    from sae_lens import SAE

    def run(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
        sae = SAE.load_from_disk(folder)
        return sae.encode(x), sae(x)

    return run


def sparsify() -> Callable[[Path, Tensor], tuple[Tensor, Tensor]]:
    from sparsify import SparseCoder

    def run(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
        coder = SparseCoder.load_from_disk(folder)
        out = coder(x)
        return torch.zeros(len(x), coder.num_latents).scatter(-1, out.latent_indices, out.latent_acts), out.sae_out

    return run


def circuit_tracer() -> Callable[[Path, Tensor], tuple[Tensor, Tensor]]:
    import yaml
    from circuit_tracer.utils.hf_utils import load_transcoder_from_hub, load_transcoders

    def run_cross_layer(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
        transcoder, _ = load_transcoder_from_hub(str(folder.absolute()), torch.device("cpu"), torch.float32)
        x = x.unflatten(1, (transcoder.n_layers, -1)).transpose(0, 1)
        latents = transcoder.encode(x)
        outputs = transcoder.decode(latents.to_sparse(), x)
        return latents.transpose(0, 1).flatten(1), outputs.transpose(0, 1).flatten(1)

    def run(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        if config["model_kind"] == "cross_layer_transcoder":
            return run_cross_layer(folder, x)
        config |= {"transcoders": [str(folder / "layer_0.safetensors")], "scan": "ours"}
        loaded = load_transcoders(config, torch.device("cpu"), torch.float32)
        [transcoder] = loaded.transcoders
        sparse, _ = transcoder.encode_sparse(x, zero_positions=slice(0, 0))
        lazily, _ = transcoder.decode_sparse(sparse, x)
        assert torch.allclose(lazily, transcoder(x), atol=TOLERANCE)
        return transcoder.encode(x), transcoder(x)

    return run


LIBRARIES = {"sae_lens": sae_lens, "sparsify": sparsify, "circuit_tracer": circuit_tracer}
root, library = Path(sys.argv[1]), sys.argv[2]
run = LIBRARIES[library]()
largest, bad = 0.0, []
folders = sorted(folder for folder in (root / library).iterdir() if folder.is_dir())
for folder in folders:
    kept = load_file(f"{folder}.forward.safetensors")
    with torch.no_grad():
        latents, outputs = run(folder, kept["inputs"])
    error = max(float((outputs - kept["outputs"]).abs().max()), float((latents - kept["latents"]).abs().max()))
    largest = max(largest, error)
    if not error <= TOLERANCE:
        bad.append(f"{folder.name}: {error:.2e}")
print(f"{library}: {len(folders)} loaded, largest difference {largest:.1e}, {len(bad)} beyond {TOLERANCE:.0e}")
print(*bad, sep="\n")
sys.exit(bool(bad))
