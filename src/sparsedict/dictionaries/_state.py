from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsedict.activations import Activation
from sparsedict.latents import per_entry


class ActivationState(nn.Module):
    """What an activation keeps in one dictionary: learned parameters and measured buffers, by name."""

    def __init__(
        self, activation: Activation, n_latents: int, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        for name, value in activation.initial_state(n_latents).items():
            placed = value.detach().to(device=device, dtype=dtype if value.is_floating_point() else None)
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, nn.Parameter(placed))
            else:
                self.register_buffer(name, placed)

    def entries(self, latents: Tensor | None = None) -> dict[str, Tensor]:
        """Returns the kept tensors, gathered for stored entries or whole."""
        kept = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {name: per_entry(value, latents) for name, value in kept.items()}
