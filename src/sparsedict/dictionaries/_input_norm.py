"""Functions shared by the kinds with an ``input_norm``."""

from __future__ import annotations

import copy
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from sparsedict.norms import DecoderNorm, Free, InputNorm
from sparsedict.torch_state import in_own_state


@runtime_checkable
class _Normalising(Protocol):
    encoder: nn.Parameter
    encoder_bias: nn.Parameter
    input_bias: nn.Parameter | None
    input_norm: InputNorm | None
    decoder_norm: DecoderNorm


Kind = TypeVar("Kind", bound=_Normalising)


def checked_input_norm(input_norm: InputNorm | None, d_in: int) -> InputNorm | None:
    """Returns the normalisation after checking its type and width."""
    if input_norm is None:
        return None
    if not isinstance(input_norm, InputNorm):
        hint = " (pass an instance, not the class)" if isinstance(input_norm, type) else ""
        raise TypeError(
            f"`input_norm` must be None or an InputNorm such as `sd.InputLayerNorm()`, got {input_norm!r}{hint}."
        )
    input_norm.check(d_in)
    return input_norm


@in_own_state
@torch.no_grad()
def bias_with_offset(dictionary: _Normalising) -> Tensor:
    """Returns the encoder's bias plus the contribution of the input's learned offset."""
    bias = dictionary.encoder_bias.detach()
    return bias if dictionary.input_bias is None else bias + dictionary.encoder @ dictionary.input_bias


@torch.no_grad()
def without_scale(dictionary: Kind) -> tuple[Kind, float]:
    """Returns a copy without normalisation, whose encoder includes the factor, and the factor."""
    folded = copy.deepcopy(dictionary)
    if dictionary.input_norm is None:
        return folded, 1.0
    factor = dictionary.input_norm.factor
    if factor is None:
        raise ValueError(
            f"`input_norm` must multiply every input by one number to be folded into weights, got "
            f"{dictionary.input_norm}, whose factor depends on the input. Use the dictionary without folding."
        )
    folded.encoder.mul_(factor)
    if folded.input_bias is not None:
        folded.input_bias.div_(factor)
    folded.input_norm = None
    folded.decoder_norm = Free()
    return folded, factor
