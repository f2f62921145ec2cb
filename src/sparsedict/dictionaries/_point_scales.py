"""How large activations are at each point that a dictionary over several points reads and writes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.dictionaries._scales import spread


def measure_(scales: Tensor, rows: Float[Tensor, "n_tokens d"], widths: Sequence[int]) -> None:
    """Measures the spread of activations at each point, in place.

    Args:
        scales: ``[n_points]``.
        rows: Activations of all points side by side.
        widths: Their widths.
    """
    measured = [spread(part) for part in rows.split(tuple(widths), dim=-1)]
    scales.copy_(torch.tensor(measured, dtype=scales.dtype, device="cpu"))


def columns(scales: Float[Tensor, " n_points"], widths: Sequence[int]) -> Float[Tensor, " d"]:
    """Returns the scale of each column, without waiting for the device."""
    return torch.cat([scale.expand(width) for scale, width in zip(scales.unbind(), widths, strict=True)])
