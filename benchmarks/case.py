"""The cases of step benchmarks: shapes, weights with realistic firing rates, and data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Selection = Literal["topk", "batch_topk", "relu", "jumprelu"]
Kind = Literal["autoencoder", "distiller", "cross_layer"]

RATE_SPREAD = 1.0
"""Standard deviation of the logarithm of the latents' firing rates."""

THRESHOLD = 0.01
BANDWIDTH = 0.01
"""Threshold and width of JumpReLU's estimator, in units of pre-activations whose standard deviation is 1."""

HEIGHT = 0.5
"""Lower bound of the ``k`` largest pre-activations, in the same units. It is positive, as in trained dictionaries."""

LEARNING_RATE = 1e-7
"""Small enough that hundreds of steps don't change the density."""

L1_COEFFICIENT = 1e-3
L0_COEFFICIENT = 1e-3


@dataclass(frozen=True)
class Case:
    """A benchmark case: shape, activation and kind of dictionary.

    Args:
        selection: The activation.
        kind: Autoencoder, or distiller of another vector with the same width.
        d: Width of inputs and outputs.
        n_latents: Number of latents.
        n_tokens: Number of tokens in a step.
        k: Number of active latents per token, on average for ReLU and JumpReLU.
        device: Device. On CUDA, products are computed in bfloat16.
        n_batches: Number of different batches.
        seed: Seed of weights and data.
        n_layers: Number of layers of a cross-layer distiller. Widths, latents and active latents are those of a layer.
    """

    selection: Selection
    kind: Kind
    d: int
    n_latents: int
    n_tokens: int
    k: int
    device: str = "cpu"
    n_batches: int = 4
    seed: int = 0
    n_layers: int = 1

    def __str__(self) -> str:
        layers = f", {self.n_layers} layers" if self.n_layers > 1 else ""
        shape = f"d {self.d:,}, {self.n_latents:,} latents, {self.n_tokens:,} tokens, k {self.k}"
        return f"{self.selection} {self.kind}{layers}, {shape}"

    @property
    def on_cuda(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def n_parameters(self) -> int:
        n_blocks = self.n_layers * (self.n_layers + 1) // 2
        return (self.n_layers + n_blocks) * self.d * self.n_latents + self.n_layers * (self.d + self.n_latents)

    def generator(self, salt: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self.seed + salt)

    @torch.no_grad()
    def fill_(self, encoder: Tensor, encoder_bias: Tensor, decoder: Tensor) -> None:
        """Sets weights ``[n_latents, d]`` in place, so that there is no copy of them in the measured process.

        Rows are random with norm 1, so on standard normal inputs every pre-activation is normal too, and a latent's
        bias sets how often it fires. Firing rates are log-normal with mean ``k / n_latents``: some latents fire on
        many tokens, most on few, as in trained dictionaries.
        """
        for salt, weight in ((1, encoder), (2, decoder)):
            weight.normal_(generator=self.generator(salt))
            weight /= torch.linalg.vector_norm(weight, dim=-1, keepdim=True)
        drawn = torch.randn(self.n_latents, generator=self.generator(3), device=self.device)
        rates = (RATE_SPREAD * drawn).exp()
        for _ in range(50):
            rates = (rates * (self.k / self.n_latents / rates.mean())).clamp_(max=0.5)
        offsets = {"topk": HEIGHT, "batch_topk": HEIGHT, "relu": 0.0, "jumprelu": THRESHOLD}
        encoder_bias.copy_(torch.special.ndtri(rates.double()) + offsets[self.selection])

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Returns batches of inputs and targets, the same tensor for an autoencoder."""
        found: list[tuple[Tensor, Tensor]] = []
        for index in range(self.n_batches):
            inputs = self._normal(10 + 2 * index)
            found.append((inputs, inputs if self.kind == "autoencoder" else self._normal(11 + 2 * index)))
        return found

    def _normal(self, salt: int) -> Tensor:
        return torch.randn(self.n_tokens, self.n_layers * self.d, generator=self.generator(salt), device=self.device)
