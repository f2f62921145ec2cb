"""Functions shared by the kinds with an ``input_norm``."""

from __future__ import annotations

import copy
from typing import Any, Protocol, TypeVar, runtime_checkable

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

    @property
    def d_in(self) -> int: ...


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


def register_state(dictionary: nn.Module, norm: InputNorm | None, d_in: int, options: dict[str, Any]) -> None:
    """Registers the numbers of a measured norm as buffers of the dictionary, such as ``input_mean``."""
    for name, value in ({} if norm is None else norm.initial_state(d_in)).items():
        dictionary.register_buffer(f"input_{name}", value.to(**options))


def bound_norm(dictionary: _Normalising) -> InputNorm | None:
    """Returns the normalisation with the numbers that the dictionary holds."""
    norm = dictionary.input_norm
    if norm is None:
        return None
    names = norm.initial_state(0)
    return norm.with_state({name: getattr(dictionary, f"input_{name}") for name in names}) if names else norm


@in_own_state
@torch.no_grad()
def measure_norm_(dictionary: _Normalising, inputs: Tensor) -> None:
    """Measures the numbers of the normalisation on some inputs, in place."""
    if dictionary.input_norm is not None:
        for name, value in dictionary.input_norm.measured(inputs).items():
            getattr(dictionary, f"input_{name}").copy_(value)


@torch.no_grad()
def without_norm(
    dictionary: Kind, *, subtracts_decoder_bias: bool = False
) -> tuple[Kind, Tensor | float, Tensor | float]:
    """Returns a copy without normalisation, whose encoder includes it, and the factor and shift of the input.

    Args:
        dictionary: The dictionary.
        subtracts_decoder_bias: Whether the encoder subtracts the decoder's bias, which then includes the shift.
    """
    folded = copy.deepcopy(dictionary)
    norm = bound_norm(dictionary)
    if norm is None:
        return folded, 1.0, 0.0
    if norm.affine is None:
        raise ValueError(
            f"`input_norm` must be the same affine map of every input to be folded into weights, got "
            f"{dictionary.input_norm}, which depends on the input. Use the dictionary without folding."
        )
    factor, shift = norm.affine
    if folded.input_bias is not None:
        folded.input_bias.add_(shift).div_(factor)
    elif not subtracts_decoder_bias:
        folded.encoder_bias.add_(
            folded.encoder @ torch.as_tensor(shift, device=folded.encoder.device).to(folded.encoder).expand(folded.d_in)
        )
    folded.encoder.mul_(factor)
    for name in dictionary.input_norm.initial_state(0) if dictionary.input_norm is not None else ():
        delattr(folded, f"input_{name}")
    folded.input_norm = None
    folded.decoder_norm = Free()
    return folded, factor, shift
