"""Upper bounds of ``inputs @ rows.T + bias`` from one product in bfloat16."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FLOAT32_ROUNDING = 2.0**-24
OUTPUT_ROUNDING = 2.0**-8 * (1 + 2.0**-6)
"""More than the rounding of a bound to bfloat16, relative to it."""

N_BOUND_COLUMNS = 6
"""Columns that the product gets in addition: three of the bias, three of what rounding may amount to."""

LEAST_WORK = 2**26
"""Multiplications below which the product in float32 is over before the bounds have been prepared."""


def bounds_pay(inputs: Float[Tensor, "n_tokens d"], rows: Float[Tensor, "n_latents d"]) -> bool:
    """Returns whether this machine multiplies bfloat16 so much faster that bounds come first."""
    if inputs.dtype != torch.float32 or rows.dtype != torch.float32 or inputs.device.type != "cpu":
        return False
    return _has_tiles() and inputs.numel() * len(rows) >= LEAST_WORK


def _has_tiles() -> bool:
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return supported is not None and torch.backends.mkldnn.enabled and bool(supported())


class Bounds:
    """Gives for blocks of tokens, for each latent, a number that its pre-activation doesn't exceed.

    With ``x = x' + r`` and ``w = w' + s``, where ``x'`` and ``w'`` are in bfloat16,
    ``x . w - x' . w' = x' . s + r . w <= |x'| |s| + |r| |w|``: two more columns of the very product, and a third for
    what float32 loses in the sum. The bias goes in as three columns, so that next to nothing of it is lost.

    Args:
        inputs: One vector for each token.
        rows: One row for each latent.
        bias: One number for each latent.
    """

    def __init__(
        self,
        inputs: Float[Tensor, "n_tokens d"],
        rows: Float[Tensor, "n_latents d"],
        bias: Float[Tensor, " n_latents"],
    ) -> None:
        n_latents, d = rows.shape
        # What all tokens share need not suffer from rounding.
        mean = inputs.mean(0)
        inputs, bias = inputs - mean, torch.addmv(bias, rows, mean)
        width = -(-(d + N_BOUND_COLUMNS) // 32) * 32
        self._rows = rows.new_zeros((n_latents, width), dtype=torch.bfloat16)
        self._inputs = inputs.new_zeros((len(inputs), width), dtype=torch.bfloat16)
        row_norms, row_losses = _round_into(self._rows, rows)
        input_norms, input_losses = _round_into(self._inputs, inputs)
        sums = 4 * d * FLOAT32_ROUNDING * input_norms
        self._rows[:, d], self._inputs[:, d] = _up(row_losses), _up(input_norms)
        self._rows[:, d + 1], self._inputs[:, d + 1] = _up(row_norms), _up(input_losses + sums)
        high = bias.bfloat16()
        low = (bias - high).bfloat16()
        for column, part in enumerate((high, low, _up((bias - high - low).abs())), start=d + 2):
            self._rows[:, column], self._inputs[:, column] = part, 1.0
        losses = input_norms * row_losses.max() + (input_losses + sums) * row_norms.max()
        self._slack = 2 * losses * (1 + 2.0**-5) + bias.abs().max() * 2.0**-14

    @classmethod
    def of(cls, inputs: Tensor, rows: Tensor, bias: Tensor) -> Bounds | None:
        """Returns bounds, or ``None`` where there are none, for something is NaN or infinite."""
        bounds = cls(inputs, rows, bias)
        return bounds if bool(bounds._slack.isfinite().all()) else None

    def rounded_down(self, threshold: Tensor) -> Tensor:
        """Returns what the rounded bound reaches wherever the bound reaches the threshold, in bfloat16."""
        lower = threshold - threshold.abs() * OUTPUT_ROUNDING
        return (lower - lower.abs() * 2.0**-7).bfloat16()

    def block(self, begin: int, end: int, out: Float[Tensor, "n_block n_latents"]) -> None:
        """Writes the bounds of tokens ``begin`` to ``end``, rounded: off by ``OUTPUT_ROUNDING`` of them at most."""
        torch.mm(self._inputs[begin:end], self._rows.T, out=out)

    def may_miss(
        self, largest: Float[Tensor, "n_block n_candidates"], k: int, tokens: Int[Tensor, " n_block"]
    ) -> Bool[Tensor, " n_block"]:
        """Returns for which tokens one of the ``k`` largest may lie beyond those of largest bounds.

        Args:
            largest: The largest bounds of each token, in any order.
            k: How many pre-activations are wanted.
            tokens: Which tokens these are.
        """
        kth, last = largest.topk(k, dim=1).values[:, -1], largest.amin(1)
        within_reach = kth - kth.abs() * OUTPUT_ROUNDING - self._slack[tokens]
        return last + last.abs() * OUTPUT_ROUNDING >= within_reach


def _round_into(rounded: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds rows to bfloat16; returns their norms and those of what was lost."""
    d = exact.shape[1]
    norms, losses = exact.new_empty(len(exact)), exact.new_empty(len(exact))
    for begin in range(0, len(exact), 1024):
        part = slice(begin, begin + 1024)
        rounded[part, :d] = exact[part]
        lost = torch.sub(exact[part], rounded[part, :d])
        torch.linalg.vector_norm(exact[part], dim=1, out=norms[part])
        torch.linalg.vector_norm(lost, dim=1, out=losses[part])
    return norms, losses


def _up(values: Tensor) -> Tensor:
    """Rounds up to bfloat16, by a step more than needed."""
    return (values * (1 + 2.0**-7)).bfloat16()
