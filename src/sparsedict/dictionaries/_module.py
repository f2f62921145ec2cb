"""A module that maps activations to a dictionary's reconstruction, to replace an MLP."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from sparsedict.latents import SparseLatents


@runtime_checkable
class Encodes(Protocol):
    """The members of a dictionary that the module calls."""

    encoder_bias: nn.Parameter
    training: bool

    def encode_sparse(self, x: Tensor, /) -> SparseLatents: ...

    def reconstruct(self, latents: SparseLatents, inputs: Tensor, /) -> Tensor: ...


class Reconstructing(nn.Module):
    """Maps activations to their reconstruction, in the dtype of the activations; see `Dictionary.as_module`.

    Attributes:
        dictionary: The dictionary. Its parameters are the module's parameters.
    """

    def __init__(self, dictionary: Encodes) -> None:
        super().__init__()
        self.dictionary = dictionary
        self.training = dictionary.training

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        inputs = x.to(self.dictionary.encoder_bias.dtype)
        return self.dictionary.reconstruct(self.dictionary.encode_sparse(inputs), inputs).to(x.dtype)
