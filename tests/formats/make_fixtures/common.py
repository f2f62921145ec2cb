"""What the scripts share: no library but torch and safetensors is needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

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


def gpt2() -> tuple[Any, Tensor]:
    """Returns a small GPT-2 of Hugging Face, the same in every environment, and tokens for it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 50, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=1)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2 + ("ln" in name and "weight" in name))
    return model, torch.randint(2, 50, (64, 20), generator=generator)
