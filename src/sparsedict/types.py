"""Carriers and protocols that the rooms hand to each other."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from sparsedict.display import short

Role = Literal["inputs", "outputs", "neurons"]
"""Name of the activations of a site that the MLP reads, that it writes, or of its hidden activations."""


class DictionaryOutput(NamedTuple):
    """What a dictionary computes: latents ``[*batch, n_latents]`` and reconstruction ``[*batch, d_out]``."""

    latents: Tensor
    reconstruction: Tensor

    def __repr__(self) -> str:
        return f"DictionaryOutput(latents={short(self.latents)}, reconstruction={short(self.reconstruction)})"


@runtime_checkable
class EncoderDecoder(Protocol):
    """Anything that encodes activations into latents and decodes them again."""

    def encode(self, x: Tensor, /) -> Tensor: ...

    def decode(self, latents: Tensor, /) -> Tensor: ...
