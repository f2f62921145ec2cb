"""Construction of dictionaries from weights and configurations that were read from checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
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
    """Weights in the layout of this library, which is latent-major.

    Attributes:
        encoder: Encoder rows, ``[n_latents, d_in]``.
        encoder_bias: Encoder bias, ``[n_latents]``. ``None`` stands for zeros.
        decoder: Decoder rows, ``[n_latents, d_out]``.
        decoder_bias: Decoder bias, ``[d_out]``.
        input_bias: Bias that is added to the input, ``[d_in]``.
        skip: Linear map from input to output, ``[d_out, d_in]``.
    """

    encoder: Tensor
    encoder_bias: Tensor | None
    decoder: Tensor
    decoder_bias: Tensor
    input_bias: Tensor | None = None
    skip: Tensor | None = None

    def by_name(self) -> dict[str, Tensor]:
        """Returns all weights that aren't ``None``, by name."""
        bias = self.encoder.new_zeros(len(self.encoder)) if self.encoder_bias is None else self.encoder_bias
        given = {"encoder_bias": bias, "input_bias": self.input_bias, "skip": self.skip}
        named = {"encoder": self.encoder, "decoder": self.decoder, "decoder_bias": self.decoder_bias}
        return named | {name: weight for name, weight in given.items() if weight is not None}


@dataclass(frozen=True)
class LoadedActivation:
    """An activation with the state from a checkpoint, such as thresholds."""

    activation: Activation
    state: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def is_exact_in_half(self) -> bool:
        """Whether half precision represents the state exactly. This isn't the case for thresholds."""
        return not isinstance(self.activation, JumpReLU | BatchTopK)


def jump_relu(threshold: Tensor, file: Path, *, may_be_negative: bool = True, log: bool = False) -> LoadedActivation:
    """Returns a JumpReLU with the given thresholds.

    Args:
        threshold: Thresholds or their logarithms, ``[n_latents]``.
        file: The file of the thresholds, for error messages.
        may_be_negative: Whether negative thresholds are allowed. They are equivalent to zero in libraries that also
            apply a ReLU.
        log: Whether ``threshold`` contains logarithms.

    Raises:
        StorageError: If thresholds are negative and ``may_be_negative`` isn't set.
    """
    wide = threshold.to(torch.promote_types(threshold.dtype, torch.float32))
    if log:
        return LoadedActivation(JumpReLU(), {"log_threshold": wide})
    if bool((wide < 0).any()) and not may_be_negative:
        raise StorageError(
            f"{file}: thresholds must not be negative, got {int((wide < 0).sum()):,} negative values. They would give "
            "negative latents, which JumpReLU doesn't support."
        )
    return LoadedActivation(JumpReLU(), {"log_threshold": wide.clamp_min(0).log()})


def gated(gate_bias: Tensor, log_scale: Tensor, magnitude_bias: Tensor) -> LoadedActivation:
    """Returns a gated activation with the biases of both paths and the logarithm of the magnitude scale."""
    return LoadedActivation(Gated(), {"gate_bias": gate_bias, "log_scale": log_scale, "magnitude_bias": magnitude_bias})


def autoencoder(
    weights: Weights,
    loaded: LoadedActivation,
    file: Path,
    *,
    offset: InputOffset,
    input_norm: InputNorm | None = None,
    reads: Role = "outputs",
    **rest: Any,
) -> Dictionary:
    """Constructs an autoencoder. ``rest`` are arguments of :func:`dictionary`."""
    make = partial(SparseAutoencoder.from_weights, input_offset=offset, input_norm=input_norm, reads=reads)
    return dictionary(make, weights, loaded, file, **rest)


def distiller(
    weights: Weights, loaded: LoadedActivation, file: Path, *, input_norm: InputNorm | None = None, **rest: Any
) -> Dictionary:
    """Constructs a distiller. ``rest`` are arguments of :func:`dictionary`."""
    return dictionary(partial(SparseDistiller.from_weights, input_norm=input_norm), weights, loaded, file, **rest)


def dictionary(
    make: Callable[..., Dictionary],
    weights: Weights,
    loaded: LoadedActivation,
    file: Path,
    *,
    trained_on: Mapping[str, Any],
    decoder_norm: DecoderNorm | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Constructs a dictionary from the contents of a checkpoint.

    Args:
        make: Function that constructs the dictionary from weights by name.
        weights: The weights.
        loaded: The activation with its state.
        file: The file of the weights, for error messages.
        trained_on: Value of ``dictionary.trained_on``.
        decoder_norm: Constraint on decoder rows for further training. ``None`` is no constraint.
        device: Device of the weights.
        dtype: Type of the weights. By default the widest type in the checkpoint.

    Raises:
        StorageError: If the weights don't form a valid dictionary.
    """
    named = weights.by_name()
    state = {f"activation_state.{name}": value for name, value in loaded.state.items()}
    dtype = dtype or widest_type((named | state).values(), loaded)
    location: dict[str, Any] = {"device": device, "dtype": dtype}
    moved = {name: value.to(**location) for name, value in named.items()}
    check_finite(moved | {name: value.to(**location) for name, value in state.items()}, str(file))
    try:
        dictionary = make(
            **moved,
            activation=loaded.activation,
            activation_state=loaded.state,
            decoder_norm=decoder_norm,
            copy=False,
        )
    except (TypeError, ValueError) as error:
        raise StorageError(f"{file} doesn't contain a valid dictionary: {error}") from None
    dictionary.trained_on = dict(trained_on)
    return dictionary


def widest_type(weights: Iterable[Tensor], loaded: LoadedActivation) -> torch.dtype:
    """Returns the type that represents all weights: at least float32 if half precision rounds the state."""
    dtype = torch.float32 if not loaded.is_exact_in_half else None
    for weight in weights:
        dtype = weight.dtype if dtype is None else torch.promote_types(dtype, weight.dtype)
    assert dtype is not None
    return dtype


def dtype_named(name: object, file: Path) -> torch.dtype | None:
    """Returns the PyTorch type of a name such as ``"torch.bfloat16"``, or ``None`` for ``None``.

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
    """Returns an integer from a configuration.

    Raises:
        StorageError: If the value is missing or has another type.
    """
    value = cfg.get(name)
    # Some libraries write counts as floats.
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise StorageError(f"{file}: `{name}` must be an integer of at least {least}, got {str(value)[:80]!r}.")
    return value


def number(cfg: Mapping[str, Any], name: str, file: Path, default: float | None = None) -> float:
    """Returns a number from a configuration, or the default if it is missing.

    Raises:
        StorageError: If the value has another type or exceeds the range of float32.
    """
    value = cfg.get(name, default)
    largest = torch.finfo(torch.float32).max
    if isinstance(value, bool) or not isinstance(value, int | float) or not -largest <= value <= largest:
        raise StorageError(f"{file}: `{name}` must be a number in the range of float32, got {str(value)[:80]!r}.")
    return float(value)


def one_threshold(value: float, file: Path) -> Tensor:
    """Returns the common threshold of all latents as a scalar tensor.

    Raises:
        StorageError: If the threshold isn't finite in float32.
    """
    return torch.tensor(number({"threshold": value}, "threshold", file), device="cpu", dtype=torch.float32)


def flag(cfg: Mapping[str, Any], name: str, file: Path, default: bool) -> bool:
    """Returns a boolean from a configuration, or the default if it is missing.

    Raises:
        StorageError: If the value has another type.
    """
    value = cfg.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise StorageError(f"{file}: `{name}` must be true or false, got {str(value)[:80]!r}.")
    return value
