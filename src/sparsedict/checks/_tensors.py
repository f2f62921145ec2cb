"""Validators of tensors and arrays."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor


def activations(name: str, value: Tensor, width: int) -> Tensor:
    """Returns ``value`` if it is a floating-point tensor whose last dimension is ``width``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"`{name}` must be a tensor of activations [..., {width}], got {type(value).__name__}.")
    if not value.is_floating_point():
        raise TypeError(
            f"`{name}` must contain floating-point activations [..., {width}], got a tensor of {value.dtype}. "
            "Pass tokens to `Site.capture` or `ActivationStream`, which turn them into activations."
        )
    dense(name, value)
    if value.ndim == 0 or value.shape[-1] != width:
        raise ValueError(f"The last dimension of `{name}` must be {width}, got shape {tuple(value.shape)}.")
    return value


def rows(inputs: Tensor, targets: Tensor, d_in: int, d_out: int) -> None:
    """Raises an error if inputs ``[n_tokens, d_in]`` and targets ``[n_tokens, d_out]`` aren't those of the same tokens.

    Raises:
        TypeError: If one of them isn't a floating-point tensor.
        ValueError: If their widths aren't ``d_in`` and ``d_out``, their numbers of tokens differ, or they are empty.
    """
    activations("inputs", inputs, d_in)
    activations("targets", targets, d_out)
    if inputs.ndim != 2 or targets.shape[:-1] != inputs.shape[:-1] or not len(inputs):
        raise ValueError(
            "`inputs` and `targets` must be rows of the same tokens, at least one, "
            f"got shapes {tuple(inputs.shape)} and {tuple(targets.shape)}."
        )


def same_shape(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Raises ``ValueError`` if two tensors differ in shape, as they would otherwise broadcast silently."""
    if a.shape != b.shape:
        raise ValueError(
            f"`{name_a}` and `{name_b}` must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}."
        )


def latent_vector(name: str, value: Tensor, n_latents: int) -> Tensor:
    """Returns ``value`` if it is a tensor ``[n_latents]``."""
    if not isinstance(value, Tensor) or tuple(value.shape) != (n_latents,):
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"`{name}` must be a tensor of shape ({n_latents},), one entry for each latent, got {shape}.")
    return value


def device(name: str, value: Any) -> torch.device | None:
    """Returns ``value`` as a ``torch.device``; ``None`` for ``None``."""
    if value is None:
        return None
    try:
        return torch.device(value)
    except (RuntimeError, TypeError, ValueError):
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(f"`{name}` must be a device, such as 'cpu' or 'cuda:0', got {value!r:.80}.") from None


def floating_dtype(name: str, value: Any) -> None:
    """Raises an error if ``value`` is neither a floating-point type nor ``None``."""
    if value is None:
        return
    if not isinstance(value, torch.dtype):
        raise TypeError(f"`{name}` must be a floating-point type, such as torch.float32, got {value!r:.80}.")
    if not value.is_floating_point:
        raise ValueError(f"`{name}` must be a floating-point type, got {value}.")


def generator(name: str, value: object) -> None:
    """Raises ``TypeError`` if ``value`` is neither a generator of random numbers nor ``None``."""
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(f"`{name}` must be a generator, such as `torch.Generator().manual_seed(0)`, got {value!r:.80}.")


def indices(name: str, values: Any, what: str) -> Tensor:
    """Returns ``values`` as a tensor on the CPU.

    Args:
        name: Name of the argument.
        values: A list, a tensor or an array.
        what: What the argument must be, for the message.
    """
    try:
        return torch.as_tensor(values, device="cpu")
    except (RuntimeError, TypeError, ValueError):
        raise TypeError(f"`{name}` must be {what}, got {values!r:.80}.") from None


def from_numpy(array: np.ndarray) -> Tensor:
    """Returns an array as a tensor. The tensor shares the array's memory if PyTorch can read the array as it is.

    Otherwise it is a copy: of an array in the other byte order, with negative strides, or with gaps inside of items.
    """
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        # The library doesn't write to data, so that read-only memory maps needn't be copied.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def dense(name: str, value: Tensor) -> Tensor:
    """Returns ``value`` if it is an ordinary dense tensor of a type that PyTorch computes in."""
    if value.is_nested or value.layout != torch.strided:
        kind, remedy = ("nested", "to_padded_tensor(0.0)") if value.is_nested else (value.layout, "to_dense()")
        raise TypeError(f"`{name}` must be a dense tensor, got a tensor of layout {kind}. Convert it with `.{remedy}`.")
    if value.is_floating_point() and value.element_size() == 1:
        raise TypeError(
            f"`{name}` must have a type that PyTorch computes in, such as float32 or bfloat16, got {value.dtype}. "
            "Convert it with `.float()`."
        )
    return value


def finite(name: str, value: Tensor, remedy: str) -> Tensor:
    """Returns ``value`` if every entry is finite. Synchronises with the device: don't use it in the training loop."""
    if not bool(torch.isfinite(value).all()):
        n_bad = int((~torch.isfinite(value)).sum())
        raise ValueError(f"`{name}` must be finite, got {n_bad} NaN or infinite entries of {value.numel()}. {remedy}")
    return value
