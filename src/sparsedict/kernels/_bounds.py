"""Upper bounds of ``inputs @ rows.T + bias`` from one product in bfloat16."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict.kernels._largest import within_reach
from sparsedict.kernels._positions import positions_where
from sparsedict.kernels._workspace import Workspace, scratch

FLOAT32_ROUNDING = 2.0**-24
SQUARES_UNDERFLOW = 2.0**-63
"""Below this a number's square is lost from a norm, or the number itself in a matrix unit."""

OUTPUT_ROUNDING = 2.0**-8 * (1 + 2.0**-6)
"""More than the rounding of a bound to bfloat16, relative to it."""

N_BOUND_COLUMNS = 5
"""Columns that the product gets in addition: two of what rounding may amount to, three of the bias."""

PART_ENTRIES = 2**17
"""Entries rounded at once, in memory that is used again."""

TILE = 32
"""The width is a multiple of this, as matrix units want it."""

MIN_WORK = 2**29
"""Multiplications below which the product in float32 is over before the bounds have been prepared."""


def bounds_are_faster(inputs: Float[Tensor, "n_tokens d"], rows: Float[Tensor, "n_latents d"]) -> bool:
    """Returns whether this machine multiplies bfloat16 so much faster that bounds come first."""
    if inputs.dtype != torch.float32 or rows.dtype != torch.float32 or inputs.device.type != "cpu":
        return False
    return _has_tiles() and inputs.numel() * len(rows) >= MIN_WORK


def _has_tiles() -> bool:
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return supported is not None and torch.backends.mkldnn.enabled and bool(supported())


class Bounds:
    """Gives for blocks of tokens, for each latent, a number that its pre-activation doesn't exceed.

    With ``x = x' + r`` and ``w = w' + s``, where ``x'`` and ``w'`` are in bfloat16,
    ``x . w - x' . w' = x' . s + r . w <= |x'| |s| + |r| |w|``: two more columns of the very product. What float32 loses
    in sums, at most a rounding of the sum of magnitudes for each term, is added to ``|r|``. The bias goes in as three
    columns: two hold it, the third what is lost of it.

    Args:
        inputs: One vector for each token.
        rows: One row for each latent.
        bias: One number for each latent.
        workspace: Memory to reuse for the rounded vectors and for scratch arrays.
    """

    def __init__(
        self,
        inputs: Float[Tensor, "n_tokens d"],
        rows: Float[Tensor, "n_latents d"],
        bias: Float[Tensor, " n_latents"],
        workspace: Workspace | None = None,
    ) -> None:
        # What all tokens share need not suffer from rounding to bfloat16, but goes through two more sums in float32.
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
        """Returns bounds, or ``None`` where there are none, for something is NaN or infinite, or could become so."""
        bounds = cls(inputs, rows, bias, workspace)
        return bounds if bool((bounds._slack + bounds._largest).isfinite().all()) else None

    def block(self, begin: int, end: int, out: Float[Tensor, "n_block n_latents"]) -> None:
        """Writes the bounds of tokens ``begin`` to ``end``, rounded: off by ``OUTPUT_ROUNDING`` of them at most."""
        torch.mm(self._inputs[begin:end], self._rows.T, out=out)

    def above(
        self, block: Float[Tensor, "n_block n_latents"], threshold: Float[Tensor, ""]
    ) -> Int[Tensor, " n_candidates"]:
        """Returns the positions in a block of all that may exceed a threshold, which isn't negative, ascending."""
        lowest = _floor(threshold - threshold.abs() * OUTPUT_ROUNDING).view(torch.int16)
        return _positions_at_least(block, lowest, self._workspace)

    def candidates(
        self, begin: int, end: int, block: Float[Tensor, "n_block n_latents"], k: int
    ) -> Int[Tensor, " n_candidates"] | None:
        """Returns the positions of all that may be among the ``k`` largest of tokens ``begin`` to ``end``, ascending.

        They are at least ``k`` of each token; ``None`` means that no search is worth it.
        """
        # Numbers in bfloat16 that aren't negative are in the order of their bits, which are compared faster.
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
        """Returns what the bounds of a token's ``k`` largest reach, given what ``k`` bounds do."""
        return _floor(kth - kth.abs() * OUTPUT_ROUNDING - self._slack[begin:end])


def _reach_in_order(bits: Tensor, rows: Tensor, k: int, workspace: Workspace | None) -> Tensor:
    """Returns the bits of what :func:`within_reach` finds in some rows of any sign."""
    chosen = scratch(workspace, "rows in order", (len(rows), bits.shape[1]), bits.dtype, bits.device)
    torch.index_select(bits, 0, rows, out=chosen)
    size = max(1, PART_ENTRIES // bits.shape[1])
    for part in chosen.split(size):
        _in_order_(part)
    reach = within_reach(chosen, k)
    assert reach is not None  # it depends on a row's length alone
    return _in_order_(reach)


def _in_order_(bits: Tensor) -> Tensor:
    """Turns bits of bfloat16 into integers of the same order, and back, in place.

    Negative numbers are in the opposite order: all but their sign is flipped.
    """
    return bits.bitwise_xor_((bits >> 15).bitwise_and_(0x7FFF))


def _positions_at_least(block: Tensor, lowest: Tensor, workspace: Workspace | None) -> Tensor:
    mask = scratch(workspace, "mask", tuple(block.shape), torch.bool, block.device)
    np.greater_equal(block.view(torch.int16).numpy(), lowest.numpy(), out=mask.numpy())
    return positions_where(mask)


def _positions_reaching_(bits: Tensor, lowest: Tensor, workspace: Workspace | None) -> Tensor:
    """Returns the positions of numbers at least as large as their row's, of any sign; the bits are lost.

    As unsigned integers, those from a positive number up are a range, and so are those from a negative one up: the
    positive, then the negative with a smaller magnitude. Moved to zero, each takes one comparison.
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
    """Returns rows in bfloat16 with room for more columns, their norms, and the norms of what rounding lost."""
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
    """Writes the last columns: those given, then zeros."""
    rounded[:, d:] = torch.nn.functional.pad(torch.stack(columns, dim=1), (0, rounded.shape[1] - d - len(columns)))


def _up(values: Tensor) -> Tensor:
    """Rounds up to bfloat16, by a step more than needed."""
    return (values * (1 + 2.0**-7)).bfloat16()
