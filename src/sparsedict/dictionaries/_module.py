"""A dictionary as a module that takes an MLP's place."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from sparsedict.dictionaries._encoder_decoder import EncoderDecoder


class Reconstructing(nn.Module):
    """Maps activations to their reconstruction alone, in the type they came in; see `Dictionary.as_module`.

    Attributes:
        dictionary: The dictionary, whose parameters these are.
    """

    def __init__(self, dictionary: EncoderDecoder) -> None:
        super().__init__()
        self.dictionary = dictionary
        self.training = dictionary.training

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        inputs = x.to(self.dictionary.encoder.dtype)
        return self.dictionary.reconstruct(self.dictionary.encode_sparse(inputs), inputs).to(x.dtype)
