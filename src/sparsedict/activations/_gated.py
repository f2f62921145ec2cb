"""`Gated`, a ReLU whose gate and magnitude have separate biases."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsedict.activations._activation import Activation, State
from sparsedict.selections import Above, Selection


@dataclass(frozen=True)
class Gated(Activation):
    """``max(exp(s) * p + m, 0)`` where ``p + g > 0``, else 0. The gate determines whether a latent fires.

    The scale ``s``, the magnitude bias ``m`` and the gate bias ``g`` are learned, with one number per latent. They are
    initialised to zero, as in ReLU. Both paths share the encoder. The gate's step function has no gradient: ``fit``
    trains the magnitudes, and the gate only through the encoder and its bias.

    Source: Rajamanoharan et al., "Improving Dictionary Learning with Gated Sparse Autoencoders", 2024.

    Example:
        >>> import torch
        >>> gate, scale, magnitude = torch.tensor([-1.0, 0.0, 2.0])
        >>> state = {"gate_bias": gate, "log_scale": scale, "magnitude_bias": magnitude}
        >>> Gated().values(torch.tensor([0.5, 1.5]), state)
        tensor([0.0000, 3.5000])
    """

    def initial_state(self, n_latents: int) -> dict[str, Tensor]:
        names = ("gate_bias", "log_scale", "magnitude_bias")
        return {name: nn.Parameter(torch.zeros(n_latents, device="cpu", dtype=torch.float32)) for name in names}

    def units(self, latents: float) -> dict[str, float]:
        return {"gate_bias": latents, "magnitude_bias": latents}

    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return torch.where(pre + state["gate_bias"] <= 0, 0.0, _magnitude(pre, state).relu())

    def selection(self, state: State, *, training: bool) -> Selection:
        return Above(-state["gate_bias"].detach())


def _magnitude(pre: Tensor, state: State) -> Tensor:
    return pre * state["log_scale"].exp() + state["magnitude_bias"]
