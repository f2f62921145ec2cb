"""The members of a dictionary that encoding, initialisation and scales use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from sparsedict.activations import Activation
from sparsedict.dictionaries._affine import AffineEncoder
from sparsedict.dictionaries._state import ActivationState
from sparsedict.latents import SparseLatents, Support
from sparsedict.norms import DecoderNorm


@runtime_checkable
class EncoderDecoder(AffineEncoder, Protocol):
    """An encoder, an activation and a decoder; see `Dictionary`, which has these members."""

    decoder: nn.Parameter
    decoder_bias: nn.Parameter
    activation: Activation
    activation_state: ActivationState
    decoder_norm: DecoderNorm
    training: bool
    start_seed: int
    has_affine_encoder: ClassVar[bool]

    @property
    def n_latents(self) -> int: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def pre_activations(self, x: Tensor, /) -> Tensor: ...

    def pre_activations_at(self, x: Tensor, support: Support, known: Tensor, /) -> Tensor: ...

    def encode_sparse(self, x: Tensor, /) -> SparseLatents: ...

    def reconstruct(self, latents: Tensor | SparseLatents, inputs: Tensor, /) -> Tensor: ...
