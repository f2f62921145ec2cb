"""Carriers and protocols that the rooms hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict.display import Displayed, short

Role = Literal["inputs", "outputs", "neurons"]
"""Name of the activations of a site that the MLP reads, that it writes, or of its hidden activations."""


@dataclass(frozen=True, repr=False)
class ActivationBatch(Displayed):
    """Activations of one site for a batch of tokens.

    Attributes:
        inputs: What the MLP reads, ``[n_tokens, d_in]``.
        outputs: What the MLP writes, ``[n_tokens, d_out]``.
        neurons: The MLP's hidden activations, ``[n_tokens, n_neurons]``, where they were asked for.
    """

    inputs: Float[Tensor, "n_tokens d_in"]
    outputs: Float[Tensor, "n_tokens d_out"]
    neurons: Float[Tensor, "n_tokens n_neurons"] | None = None

    def __post_init__(self) -> None:
        for name in ("outputs", "neurons"):
            other = getattr(self, name)
            if other is not None and len(other) != len(self.inputs):
                raise ValueError(
                    f"`{name}` must hold as many tokens as `inputs`, got {len(other)} and {len(self.inputs)}."
                )

    def __len__(self) -> int:
        return len(self.inputs)

    def of(self, role: Role) -> Float[Tensor, "n_tokens width"]:
        """Returns the activations of one role.

        Raises:
            ValueError: If the neurons' activations are asked for and weren't captured.
        """
        if role not in ("inputs", "outputs", "neurons"):
            raise ValueError(f"`role` must be 'inputs', 'outputs' or 'neurons', got {role!r}.")
        value = getattr(self, role)
        if value is None:
            raise ValueError("This batch holds no neuron activations: capture them with `neurons=True`.")
        return value


@dataclass(frozen=True, repr=False)
class SiteActivations(Displayed):
    """Activations of one site in the shape in which the model computes them.

    Attributes:
        inputs: ``[*shape, d_in]``.
        outputs: ``[*shape, d_out]``.
        neurons: ``[*shape, n_neurons]``, where asked for.
        mask: ``[*shape]``, true where a position is kept; padding and excluded tokens are false.
        shape: The leading dimensions, usually ``(n_sequences, n_positions)``.
        tokens: Ids of the tokens at these positions, ``[*shape]``: in a decoder the decoder's. None if the model was
            called without ids.
        attention_mask: False at padding, ``[*shape]``; None where there is none.
    """

    inputs: Float[Tensor, "*shape d_in"]
    outputs: Float[Tensor, "*shape d_out"]
    neurons: Float[Tensor, "*shape n_neurons"] | None
    mask: Bool[Tensor, "*shape"]
    shape: torch.Size
    tokens: Int[Tensor, "*shape"] | None = None
    attention_mask: Bool[Tensor, "*shape"] | None = None

    def batch(self) -> ActivationBatch:
        """Returns the kept positions as rows, in reading order."""
        neurons = None if self.neurons is None else self.neurons[self.mask]
        return ActivationBatch(self.inputs[self.mask], self.outputs[self.mask], neurons)


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
