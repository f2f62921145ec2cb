"""Makes a dictionary of weights that were read, and takes one apart to be written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict.activations import Activation, BatchTopK, Gated, JumpReLU
from sparsedict.dictionaries import Dictionary, InputOffset, SparseAutoencoder, SparseDistiller
from sparsedict.norms import DecoderNorm, InputNorm
from sparsedict.storage import StorageError, check_finite
from sparsedict.types import Role

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float": torch.float32,
    "float16": torch.float16,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class Weights:
    """Weights in this library's layout: latent-major, ``[n_latents, d]``.

    Attributes:
        encoder: ``[n_latents, d_in]``.
        encoder_bias: ``[n_latents]``; zeros where left out.
        decoder: ``[n_latents, d_out]``.
        decoder_bias: ``[d_out]``.
        input_bias: What is added to the input, ``[d_in]``.
        skip: Linear map of the input, ``[d_out, d_in]``.
    """

    encoder: Tensor
    encoder_bias: Tensor | None
    decoder: Tensor
    decoder_bias: Tensor
    input_bias: Tensor | None = None
    skip: Tensor | None = None

    def by_name(self) -> dict[str, Tensor]:
        bias = self.encoder.new_zeros(len(self.encoder)) if self.encoder_bias is None else self.encoder_bias
        given = {"encoder_bias": bias, "input_bias": self.input_bias, "skip": self.skip}
        named = {"encoder": self.encoder, "decoder": self.decoder, "decoder_bias": self.decoder_bias}
        return named | {name: weight for name, weight in given.items() if weight is not None}


@dataclass(frozen=True)
class Learned:
    """An activation, with what it learned in the checkpoint."""

    activation: Activation
    state: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def is_exact_in_half(self) -> bool:
        """Whether the state means the same in half precision: the logarithm of a threshold doesn't."""
        return not isinstance(self.activation, JumpReLU | BatchTopK)


def jump_relu(threshold: Tensor, file: Path, *, may_be_negative: bool = True, log: bool = False) -> Learned:
    """Returns a JumpReLU of these thresholds.

    Args:
        threshold: One for each latent, or its logarithm.
        file: Where it is from, for errors.
        may_be_negative: Whether the library applies ReLU as well, so that a negative threshold means zero.
        log: Whether these are logarithms.
    """
    wide = threshold.to(torch.promote_types(threshold.dtype, torch.float32))
    if log:
        return Learned(JumpReLU(), {"log_threshold": wide})
    if bool((wide < 0).any()) and not may_be_negative:
        raise StorageError(
            f"{file}: {int((wide < 0).sum()):,} thresholds are negative, which lets negative latents pass: no "
            "activation here does that."
        )
    return Learned(JumpReLU(), {"log_threshold": wide.clamp_min(0).log()})


def gated(gate_bias: Tensor, log_scale: Tensor, magnitude_bias: Tensor) -> Learned:
    """Returns a gate whose paths have these biases, and this logarithm of the magnitude's scale."""
    return Learned(Gated(), {"gate_bias": gate_bias, "log_scale": log_scale, "magnitude_bias": magnitude_bias})


def autoencoder(
    weights: Weights,
    learned: Learned,
    file: Path,
    *,
    offset: InputOffset,
    input_norm: InputNorm | None = None,
    reads: Role = "outputs",
    **rest: Any,
) -> Dictionary:
    """Makes an autoencoder; ``rest`` is as in :func:`made`."""
    make = partial(SparseAutoencoder.from_weights, input_offset=offset, input_norm=input_norm, reads=reads)
    return made(make, weights, learned, file, **rest)


def distiller(
    weights: Weights, learned: Learned, file: Path, *, input_norm: InputNorm | None = None, **rest: Any
) -> Dictionary:
    """Makes a distiller; ``rest`` is as in :func:`made`."""
    return made(partial(SparseDistiller.from_weights, input_norm=input_norm), weights, learned, file, **rest)


def made(
    make: Callable[..., Dictionary],
    weights: Weights,
    learned: Learned,
    file: Path,
    *,
    trained_on: Mapping[str, Any],
    decoder_norm: DecoderNorm | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Makes a dictionary of what was read.

    Args:
        make: Makes it of the weights by name.
        weights: What was read.
        learned: The activation.
        file: Where they are from, for errors.
        trained_on: What the dictionary should remember.
        decoder_norm: The constraint on decoder rows if it is trained on; none where left out.
        device: Where to put the weights.
        dtype: Their type; the widest that was read where left out.
    """
    named = weights.by_name()
    state = {f"activation_state.{name}": value for name, value in learned.state.items()}
    dtype = dtype or _dtype(named | state, learned)
    place: dict[str, Any] = {"device": device, "dtype": dtype}
    placed = {name: value.to(**place) for name, value in named.items()}
    check_finite(placed | {name: value.to(**place) for name, value in state.items()}, str(file))
    try:
        dictionary = make(
            **placed,
            activation=learned.activation,
            activation_state=learned.state,
            decoder_norm=decoder_norm,
            copy=False,
        )
    except (TypeError, ValueError) as error:
        raise StorageError(f"{file} is no dictionary that could be made: {error}") from None
    dictionary.trained_on = dict(trained_on)
    return dictionary


def _dtype(named: Mapping[str, Tensor], learned: Learned) -> torch.dtype:
    dtype = torch.float32 if not learned.is_exact_in_half else None
    for weight in named.values():
        dtype = weight.dtype if dtype is None else torch.promote_types(dtype, weight.dtype)
    assert dtype is not None
    return dtype


def dtype_named(name: object, file: Path) -> torch.dtype | None:
    """Returns the type that a configuration names, such as ``"torch.bfloat16"``; ``None`` where it names none.

    Raises:
        StorageError: If there is no such type.
    """
    if name is None:
        return None
    found = DTYPES.get(str(name).removeprefix("torch."))
    if found is None:
        raise StorageError(f"{file}: `dtype` must be one of {', '.join(DTYPES)}, got {str(name)[:80]!r}.")
    return found


def integer(cfg: Mapping[str, Any], name: str, file: Path, least: int = 1) -> int:
    """Returns a whole number of a configuration.

    Raises:
        StorageError: If it is missing or something else.
    """
    value = cfg.get(name)
    # Some libraries write counts as floats.
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise StorageError(f"{file}: `{name}` must be an integer of at least {least}, got {str(value)[:80]!r}.")
    return value


def number(cfg: Mapping[str, Any], name: str, file: Path, default: float | None = None) -> float:
    """Returns a number of a configuration, the default where it is missing.

    Raises:
        StorageError: If it is something else, or single precision can't hold it.
    """
    value = cfg.get(name, default)
    largest = torch.finfo(torch.float32).max
    if isinstance(value, bool) or not isinstance(value, int | float) or not -largest <= value <= largest:
        raise StorageError(f"{file}: `{name}` must be a number of single precision, got {str(value)[:80]!r}.")
    return float(value)


def one_threshold(value: float | None, file: Path) -> Tensor:
    """Returns the threshold of all latents, NaN where it isn't known yet.

    Raises:
        StorageError: If it isn't finite in single precision.
    """
    threshold = math.nan if value is None else number({"threshold": value}, "threshold", file)
    return torch.tensor(threshold, device="cpu", dtype=torch.float32)


def flag(cfg: Mapping[str, Any], name: str, file: Path, default: bool) -> bool:
    """Returns a truth value of a configuration, the default where it is missing.

    Raises:
        StorageError: If it is something else.
    """
    value = cfg.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise StorageError(f"{file}: `{name}` must be true or false, got {str(value)[:80]!r}.")
    return value
