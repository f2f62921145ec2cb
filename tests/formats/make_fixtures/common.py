"""What the scripts share: no library but torch and safetensors is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

D_IN, D_OUT, N_LATENTS, K, N_TOKENS = 6, 4, 12, 3, 9


def randomise_(module: nn.Module, seed: int) -> None:
    """Gives every floating-point weight random values; thresholds positive ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in [*module.named_parameters(), *module.named_buffers()]:
            if weight.is_floating_point():
                drawn = torch.randn(weight.shape, generator=generator)
                weight.copy_(drawn.abs() * 0.5 if "threshold" in name else drawn * 0.6)


def inputs(seed: int = 7, width: int = D_IN) -> Tensor:
    return torch.randn(N_TOKENS, width, generator=torch.Generator().manual_seed(seed)) + 0.3


def keep(folder: Path, x: Tensor, latents: Tensor, outputs: Tensor) -> None:
    """Saves what a library computed beside its checkpoint."""
    tensors = {"inputs": x, "latents": latents, "outputs": outputs}
    tensors = {name: tensor.detach().float().contiguous().clone() for name, tensor in tensors.items()}
    save_file(tensors, folder.with_name(f"{folder.name}.forward.safetensors"))
    print(f"{folder.parent.name}/{folder.name}: {int((latents != 0).sum())} of {latents.numel()} latents are active")


def target(library: str) -> Path:
    folder = Path(sys.argv[1]) / library
    folder.mkdir(parents=True, exist_ok=True)
    return folder
