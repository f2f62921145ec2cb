"""Upper bounds of ``inputs @ rows.T + bias`` from one product in bfloat16."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict.kernels._largest import within_reach
from sparsedict.kernels._positions import positions_where
from sparsedict.kernels._workspace import Workspace, scratch

FLOAT32_ROUNDING = 2.0**-24
SQUARES_UNDERFLOW = 2.0**-63
"""Smaller numbers are lost in matrix units, and their squares in norms."""

OUTPUT_ROUNDING = 2.0**-8 * (1 + 2.0**-6)
"""Upper limit of the relative rounding error of a bound in bfloat16."""

N_BOUND_COLUMNS = 5
"""Number of additional columns of the product: two for rounding errors, three for the bias."""

PART_ENTRIES = 2**17
"""Number of entries that are rounded at a time, in reused memory."""

TILE = 32
"""The width is padded to a multiple of this number, for matrix units."""

MIN_WORK = 2**29
"""Number of multiplications below which a float32 product is faster than preparing the bounds."""


def bounds_are_faster(inputs: Float[Tensor, "n_tokens d"], rows: Float[Tensor, "n_latents d"]) -> bool:
    """Returns whether computing bounds first is faster, which depends on the machine's speed for bfloat16 products."""
    if inputs.dtype != torch.float32 or rows.dtype != torch.float32 or inputs.device.type != "cpu":
        return False
    return _multiplies_bfloat16() and inputs.numel() * len(rows) >= MIN_WORK


def _multiplies_bfloat16() -> bool:
    """Returns whether the CPU has instructions for products in bfloat16: AMX or AVX512_BF16."""
    checks = [getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
    return torch.backends.mkldnn.enabled and any(check() for check in checks if check is not None)


class Bounds:
    """Computes upper bounds of the pre-activations of blocks of tokens.

    Let ``x = x' + r`` and ``w = w' + s``, where ``x'`` and ``w'`` are in bfloat16. Then
    ``x . w - x' . w' = x' . s + r . w <= |x'| |s| + |r| |w|``, which takes two more columns of the same product. The
    rounding error of float32 sums, at most one rounding of the sum of magnitudes per term, is added to ``|r|``. The
    bias takes three columns: two for its value, and one for its rounding error.

    Args:
        inputs: One vector per token.
        rows: One row per latent.
        bias: One number per latent.
        workspace: Memory to reuse for the rounded vectors and for scratch arrays.
    """

    def __init__(
        self,
        inputs: Float[Tensor, "n_tokens d"],
        rows: Float[Tensor, "n_latents d"],
        bias: Float[Tensor, " n_latents"],
        workspace: Workspace | None = None,
    ) -> None:
        # The mean of all tokens needs no rounding to bfloat16, but it goes through two more float32 sums.
        d = rows.shape[1]
        sum_rounding = (d + N_BOUND_COLUMNS) * FLOAT32_ROUNDING
        mean = inputs.mean(0)
        bias_losses = 2 * sum_rounding * bias.abs()
        inputs, bias = inputs - mean, torch.addmv(bias, rows, mean)
        rounded_inputs, input_norms, input_losses = _rounded("inputs", inputs, workspace)
        rounded_rows, row_norms, row_losses = _rounded("rows", rows, workspace)
        input_losses += sum_rounding * (4 * input_norms + 2 * torch.linalg.vector_norm(mean))
        high = bias.bfloat16()
        low = (bias - high).bfloat16()
        bias_losses += (bias - high - low).abs()
        ones = torch.ones_like(high)[:1].expand(len(inputs))
        _fill(rounded_rows, d, (_up(row_losses), _up(row_norms), high, low, _up(bias_losses)))
        _fill(rounded_inputs, d, (_up(input_norms), _up(input_losses), ones, ones, ones))
        self._rows, self._inputs, self._workspace = rounded_rows, rounded_inputs, workspace
        losses = input_norms * row_losses.max() + input_losses * row_norms.max() + bias_losses.max()
        self._slack = 2 * losses * (1 + 2.0**-5)
        self._largest = 2 * (input_norms * row_norms.max() + bias.abs().max())

    @classmethod
    def from_rows(cls, inputs: Tensor, rows: Tensor, bias: Tensor, workspace: Workspace | None = None) -> Bounds | None:
        """Returns bounds, or ``None`` if a value is or could become NaN or infinite."""
        bounds = cls(inputs, rows, bias, workspace)
        return bounds if bool((bounds._slack + bounds._largest).isfinite().all()) else None

    def block(self, begin: int, end: int, out: Float[Tensor, "n_block n_latents"]) -> None:
        """Writes the bounds of tokens ``begin`` to ``end``, with a relative error of at most ``OUTPUT_ROUNDING``."""
        torch.mm(self._inputs[begin:end], self._rows.T, out=out)

    def above(
        self, block: Float[Tensor, "n_block n_latents"], threshold: Float[Tensor, ""]
    ) -> Int[Tensor, " n_candidates"]:
        """Returns the positions in a block that may exceed a non-negative threshold, in ascending order."""
        return _positions_at_least(block, _least_bits(threshold), self._workspace)

    def reaches(
        self, block: Float[Tensor, "n_block n_latents"], threshold: Float[Tensor, ""]
    ) -> Bool[Tensor, "n_block n_latents"]:
        """Returns a mask of the entries that may exceed a non-negative threshold."""
        return block.view(torch.int16) >= _least_bits(threshold)

    def candidates(
        self, begin: int, end: int, block: Float[Tensor, "n_block n_latents"], k: int
    ) -> Int[Tensor, " n_candidates"] | None:
        """Returns the positions that may be among the ``k`` largest of tokens ``begin`` to ``end``, in ascending order.

        There are at least ``k`` per token. ``None`` means that searching isn't worthwhile.
        """
        # Non-negative bfloat16 numbers have the order of their bits, which are faster to compare.
        bits = block.view(torch.int16)
        reach = within_reach(bits, k)
        if reach is None:
            return None
        negative = (reach < 0).nonzero().flatten()
        if len(negative):
            reach[negative] = _reach_in_order(bits, negative, k, self._workspace)
        lowest = self._lowest(reach.view(torch.bfloat16).float(), begin, end)
        if bool((lowest > 0).all()):
            return _positions_at_least(block, lowest.view(torch.int16)[:, None], self._workspace)
        return _positions_reaching_(bits, lowest, self._workspace)

    def _lowest(self, kth: Tensor, begin: int, end: int) -> Tensor:
        """Returns a lower limit for the bounds of each token's ``k`` largest entries, from its ``k``-th bound."""
        return _floor(kth - kth.abs() * OUTPUT_ROUNDING - self._slack[begin:end])


def _least_bits(threshold: Tensor) -> Tensor:
    """Returns the bits of the smallest bound of entries that exceed a non-negative threshold."""
    return _floor(threshold - threshold.abs() * OUTPUT_ROUNDING).view(torch.int16)


def _reach_in_order(bits: Tensor, rows: Tensor, k: int, workspace: Workspace | None) -> Tensor:
    """Returns the bits of the result of :func:`within_reach` for rows of any sign."""
    chosen = scratch(workspace, "rows in order", (len(rows), bits.shape[1]), bits.dtype, bits.device)
    torch.index_select(bits, 0, rows, out=chosen)
    size = max(1, PART_ENTRIES // bits.shape[1])
    for part in chosen.split(size):
        _in_order_(part)
    reach = within_reach(chosen, k)
    assert reach is not None  # the result is None only for short rows
    return _in_order_(reach)


def _in_order_(bits: Tensor) -> Tensor:
    """Converts bits of bfloat16 numbers to integers with the same order in place, or back.

    Negative numbers have the opposite order, so all their bits except the sign are flipped.
    """
    return bits.bitwise_xor_((bits >> 15).bitwise_and_(0x7FFF))


def _positions_at_least(block: Tensor, lowest: Tensor, workspace: Workspace | None) -> Tensor:
    mask = scratch(workspace, "mask", tuple(block.shape), torch.bool, block.device)
    np.greater_equal(block.view(torch.int16).numpy(), lowest.numpy(), out=mask.numpy())
    return positions_where(mask)


def _positions_reaching_(bits: Tensor, lowest: Tensor, workspace: Workspace | None) -> Tensor:
    """Returns the positions of numbers of any sign that are at least their row's limit. Overwrites the bits.

    As unsigned integers, the numbers above a positive limit form a range. So do the numbers above a negative limit:
    first the positive numbers, then the negative numbers with smaller magnitude. Shifted to zero, each range takes one
    comparison.
    """
    least = lowest.view(torch.int16)
    positive = lowest > 0
    moved = bits.sub_(torch.where(positive, least, 0)[:, None]).numpy().view(np.uint16)
    magnitude = (least & 0x7FFF).int()
    length = torch.where(positive, 0x7FFF - magnitude, 0x8000 + magnitude)
    mask = scratch(workspace, "mask", tuple(bits.shape), torch.bool, bits.device)
    np.less_equal(moved, length[:, None].numpy().astype(np.uint16), out=mask.numpy())
    return positions_where(mask)


def _floor(values: Tensor) -> Tensor:
    """Rounds down to bfloat16."""
    rounded = values.bfloat16()
    lower = torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))
    return torch.where(rounded > values, lower, rounded)


def _rounded(name: str, exact: Tensor, workspace: Workspace | None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns rows in bfloat16 with space for more columns, their norms, and the norms of their rounding errors."""
    n, d = exact.shape
    width = -(-(d + N_BOUND_COLUMNS) // TILE) * TILE
    rounded = scratch(workspace, f"rounded {name}", (n, width), torch.bfloat16, exact.device)
    norms, losses = exact.new_empty(n), exact.new_empty(n)
    size = min(n, max(1, PART_ENTRIES // d))
    lost = scratch(workspace, "lost", (size, d), exact.dtype, exact.device)
    for begin in range(0, n, size):
        part = exact[begin : begin + size]
        low, left = rounded[begin : begin + size, :d], lost[: len(part)]
        low.copy_(part)
        left.copy_(low).sub_(part)
        torch.linalg.vector_norm(part, dim=1, out=norms[begin : begin + size])
        torch.linalg.vector_norm(left, dim=1, out=losses[begin : begin + size])
    underflow = d**0.5 * SQUARES_UNDERFLOW
    return rounded, norms.add_(underflow), losses.add_(underflow)


def _fill(rounded: Tensor, d: int, columns: tuple[Tensor, ...]) -> None:
    """Writes the last columns: the given columns, then zeros."""
    rounded[:, d:] = torch.nn.functional.pad(torch.stack(columns, dim=1), (0, rounded.shape[1] - d - len(columns)))


def _up(values: Tensor) -> Tensor:
    """Rounds up to bfloat16, by one step more than necessary."""
    return (values * (1 + 2.0**-7)).bfloat16()
