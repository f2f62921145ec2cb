"""Nearest rows by cosine similarity, computed in blocks, and the encoder and decoder rows of an object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from sparsedict import checks
from sparsedict.adapters import Adapter
from sparsedict.display import Displayed
from sparsedict.seeds import generator
from sparsedict.torch_state import in_own_state

_NULL = int.from_bytes(b"null", "big")
N_COSINES = 2**24
"""Number of cosines that are computed at once, 64 MiB in float32."""


@dataclass(frozen=True, eq=False, repr=False)
class Nearest(Displayed):
    """The nearest row in another matrix, by signed cosine, for each row of a matrix.

    Attributes:
        cosine: The largest signed cosine, ``[n_rows]``. It is 0 for a row of zeros.
        index: Index of the nearest row, the first of equal ones, ``[n_rows]``.
    """

    cosine: Float[Tensor, " n_rows"]
    index: Int[Tensor, " n_rows"]


@in_own_state
def nearest(rows: Float[Tensor, "n_rows d"], others: Float[Tensor, "n_others d"] | None) -> Nearest:
    """Returns, for each row, the row of ``others`` with the largest signed cosine; ``None`` is the unit matrix."""
    if others is None:
        return Nearest(*unit(rows).max(1))
    rows, others = units(rows, others)
    size = max(1, N_COSINES // len(others))
    best = [(block @ others.T).max(1) for block in rows.split(size)]
    return Nearest(torch.cat([b.values for b in best]).clamp(-1, 1), torch.cat([b.indices for b in best]))


def random_nearest(rows: Tensor, others: Tensor | None, seed: int) -> Float[Tensor, " n_rows"]:
    """Returns the largest cosines for random directions instead of ``rows``, as a null distribution."""
    # A separate key, because the same seed may have initialised the weights. On the CPU, so that a seed gives the same
    # directions on every device.
    random = torch.randn(rows.shape, generator=generator(seed, _NULL), device="cpu", dtype=torch.float32)
    return nearest(random.to(rows.device), others).cosine


def unit(rows: Float[Tensor, "n_rows d"]) -> Float[Tensor, "n_rows d"]:
    """Returns rows of norm 1, in at least float32. Zero rows stay zero."""
    rows = rows.detach()
    rows = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
    # Rows are scaled first, because the norm of a tiny row would underflow.
    return normalize(rows / rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny), dim=1)


def units(
    rows: Float[Tensor, "n_rows d"], others: Float[Tensor, "n_others d_others"]
) -> tuple[Float[Tensor, "n_rows d"], Float[Tensor, "n_others d_others"]]:
    """Returns the rows of two matrices with norm 1, in the wider of their dtypes and on the device of the first."""
    rows, others = unit(rows), unit(others)
    dtype = torch.promote_types(rows.dtype, others.dtype)
    return rows.to(dtype), others.to(rows.device, dtype)


def decoder_of(name: str, value: Any) -> Float[Tensor, "n_latents d_out"]:
    """Returns the decoder rows of a matrix, or of an object with ``decoder`` (a matrix or linear layer) or ``W_dec``.

    Raises:
        TypeError: If there are none to be found.
    """
    if isinstance(value, Tensor):
        return _matrix(name, value)
    value = value.source if isinstance(value, Adapter) else value
    found = getattr(value, "decoder", None)
    if isinstance(found, nn.Linear):
        found = found.weight.T
    if not isinstance(found, Tensor):
        found = getattr(value, "W_dec", None)
    if not isinstance(found, Tensor):
        raise TypeError(
            f"`{name}` must be a matrix of decoder rows [n, d], a tuple (encoder, decoder) of such matrices, or an "
            f"object with a `decoder`, got {type(value).__name__}. Pass the decoder rows as a tensor."
        )
    return _matrix(f"{name}.decoder", found)


def encoder_of(name: str, value: Any) -> Float[Tensor, "n_latents d_in"] | None:
    """Returns the encoder rows of an object with ``encoder`` or ``W_enc``, or None if it has none."""
    value = value.source if isinstance(value, Adapter) else value
    found = getattr(value, "encoder", None)
    if isinstance(found, nn.Linear):
        found = found.weight
    if not isinstance(found, Tensor):
        found = getattr(value, "W_enc", None)
        found = found.T if isinstance(found, Tensor) else None
    return None if found is None else _matrix(f"{name}.encoder", found)


def directions(name: str, value: Any) -> tuple[Tensor | None, Tensor]:
    """Returns the encoder rows, or None if there are none, and the decoder rows.

    Raises:
        TypeError: If the argument has no decoder rows.
        ValueError: If the numbers of rows differ.
    """
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, Tensor) for part in value):
        encoder, decoder = _matrix(f"{name}[0]", value[0]), _matrix(f"{name}[1]", value[1])
    else:
        encoder, decoder = None if isinstance(value, Tensor) else encoder_of(name, value), decoder_of(name, value)
    if encoder is not None and len(encoder) != len(decoder):
        raise ValueError(
            f"`{name}` must have an encoder row for each decoder row, got {tuple(encoder.shape)} and "
            f"{tuple(decoder.shape)}. Both must be [n, d]."
        )
    return encoder, decoder


def _matrix(name: str, value: Tensor) -> Tensor:
    if value.ndim != 2 or not value.is_floating_point() or 0 in value.shape:
        raise ValueError(f"`{name}` must be a floating-point matrix [n, d], got {value.dtype} {tuple(value.shape)}.")
    return checks.finite(name, value.detach(), "Cosines with such rows are undefined.")
