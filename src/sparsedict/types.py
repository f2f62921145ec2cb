"""Types and protocols that several packages share."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from sparsedict.display import short

Role = Literal["inputs", "outputs", "neurons"]
"""Role of an activation at a site, which is the MLP's input, its output, or its hidden activations."""


class DictionaryOutput(NamedTuple):
    """Output of a dictionary: latents ``[*batch, n_latents]`` and reconstruction ``[*batch, d_out]``."""

    latents: Tensor
    reconstruction: Tensor

    def __repr__(self) -> str:
        return f"DictionaryOutput(latents={short(self.latents)}, reconstruction={short(self.reconstruction)})"


@runtime_checkable
class EncoderDecoder(Protocol):
    """Interface of objects that encode activations into latents and decode latents into activations."""

    def encode(self, x: Tensor, /) -> Tensor: ...

    def decode(self, latents: Tensor, /) -> Tensor: ...
