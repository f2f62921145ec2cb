"""Scales of the activations at each point of a dictionary over several points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.dictionaries._scales import spread


def measure_(scales: Tensor, rows: Float[Tensor, "n_tokens d"], widths: Sequence[int]) -> None:
    """Measures the spread of activations at each point, in place.

    Args:
        scales: Scales to overwrite, ``[n_points]``.
        rows: Concatenated activations of all points.
        widths: Width of each point.
    """
    measured = [spread(part) for part in rows.split(tuple(widths), dim=-1)]
    scales.copy_(torch.tensor(measured, dtype=scales.dtype, device="cpu"))


def columns(scales: Float[Tensor, " n_points"], widths: Sequence[int]) -> Float[Tensor, " d"]:
    """Returns the scale of each column, without synchronisation."""
    return torch.cat([scale.expand(width) for scale, width in zip(scales.unbind(), widths, strict=True)])
