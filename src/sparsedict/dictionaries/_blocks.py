"""Blocks of latents with their inputs and outputs, and the products of all blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sparsedict.display import Displayed
from sparsedict.kernels import Affine, affine_at, matmul
from sparsedict.latents import SparseLatents, Support
from sparsedict.norms import DecoderNorm
from sparsedict.splits import split

TIED_ROWS = 2**10
"""Number of tied decoder rows that are expanded to whole rows at once."""


@dataclass(frozen=True, eq=False, repr=False)
class Block(Displayed):
    """Consecutive latents of a dictionary, with their encoder and decoder rows.

    Entries of the encoder and decoder matrices outside of the blocks are zero and aren't stored. Most dictionaries have
    one block, which reads all inputs and writes all outputs.

    Attributes:
        latents: Slice of the latents among all latents of the dictionary.
        encoder: Encoder rows, ``[n, d_read]``.
        decoder: Decoder rows, ``[n, d_row]``.
        reads: Slice of the input columns.
        writes: Slice of the output columns.
        widths: Widths of the points that a decoder row writes. Their sum is the width of ``writes``.
        n_copies: Number of copies of the stored decoder row in a whole row: 1, or the number of ``widths``.
    """

    latents: slice
    encoder: Float[Tensor, "n d_read"]
    decoder: Float[Tensor, "n d_row"]
    reads: slice
    writes: slice
    widths: tuple[int, ...]
    n_copies: int = 1

    @property
    def n_latents(self) -> int:
        return len(self.encoder)

    def rows_of(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the positions in ``latents`` of the latents of this block, and their rows in this block."""
        here = ((latents >= self.latents.start) & (latents < self.latents.stop)).nonzero().flatten()
        return here, latents[here] - self.latents.start

    def norms(self) -> Float[Tensor, " n"]:
        """Returns the norm of each whole decoder row. The result is differentiable."""
        return torch.linalg.vector_norm(self.decoder, dim=-1) * self.n_copies**0.5

    def point_norms(self) -> Float[Tensor, "n n_points"]:
        """Returns the norm of each decoder row at each point that the block writes. The result is differentiable."""
        if self.n_copies > 1:
            return torch.linalg.vector_norm(self.decoder, dim=-1, keepdim=True).expand(-1, self.n_copies)
        parts = self.decoder.split(self.widths, dim=-1)
        return torch.stack([torch.linalg.vector_norm(part, dim=-1) for part in parts], dim=-1)

    def whole_rows(self) -> Float[Tensor, "n d_written"]:
        """Returns whole decoder rows, with all copies of tied rows."""
        return self.decoder.repeat(1, self.n_copies) if self.n_copies > 1 else self.decoder

    def stored_rows(self, rows: Float[Tensor, "m d_written"]) -> Float[Tensor, "m d_row"]:
        """Returns the stored part of whole rows, which is the mean over copies."""
        return rows.unflatten(-1, (self.n_copies, -1)).mean(-2) if self.n_copies > 1 else rows

    def constrain_(self, norm: DecoderNorm) -> None:
        """Applies a decoder norm to the whole rows, in place."""
        norm = norm.at_points(self.widths)
        if self.n_copies == 1:
            norm.constrain_(self.decoder)
            return
        for rows in self.decoder.detach().split(TIED_ROWS):
            whole = rows.repeat(1, self.n_copies)
            norm.constrain_(whole)
            rows.copy_(whole[:, : rows.shape[1]])

    def project_gradient_(self, norm: DecoderNorm, gradient: Float[Tensor, "n d_row"]) -> None:
        """Removes the component of the gradient of the stored rows that the constraint would undo, in place."""
        norm = norm.at_points(self.widths)
        if self.n_copies == 1:
            norm.project_gradient_(self.decoder, gradient)
            return
        for rows, slopes in zip(self.decoder.detach().split(TIED_ROWS), gradient.split(TIED_ROWS), strict=True):
            whole = slopes.repeat(1, self.n_copies)
            norm.project_gradient_(rows.repeat(1, self.n_copies), whole)
            slopes.copy_(whole[:, : slopes.shape[1]])


def sizes_of(blocks: Sequence[Block]) -> tuple[int, ...]:
    """Returns the number of latents of each block."""
    return tuple(block.n_latents for block in blocks)


def pre_activations(parts: Sequence[Affine]) -> Float[Tensor, "*batch n_latents"]:
    """Returns the concatenated pre-activations of all blocks."""
    found = [functional.linear(*part) for part in parts]
    return found[0] if len(found) == 1 else torch.cat(found, dim=-1)


def entries_at(
    parts: Sequence[Affine],
    support: Support,
    known: Tensor | None = None,
    offsets: Sequence[Tensor | None] | None = None,
) -> Float[Tensor, " n_entries"]:
    """Returns the pre-activations of all blocks at the entries of a support, as `kernels.affine_at` for one block.

    Args:
        parts: Inputs, rows and biases of the blocks.
        support: The entries.
        known: Values of the entries, if they are already computed.
        offsets: For each block, a vector that has already been added to each of its inputs.
    """
    offsets = [None] * len(parts) if offsets is None else offsets
    if len(parts) == 1:
        return affine_at(*parts[0], support, known, offsets[0])
    own = split(support, [len(part.rows) for part in parts])
    values = [None] * len(parts) if known is None else own.take(known)
    found = []
    for part, entries, value, offset in zip(parts, own.supports, values, offsets, strict=True):
        if len(part.rows):
            found.append(affine_at(*part, entries, value, offset))
        else:
            found.append(part.bias)
    return own.put(found)


def decoded(
    blocks: Sequence[Block],
    latents: Float[Tensor, "*batch n_latents"] | SparseLatents,
    bias: Float[Tensor, " d_out"],
) -> Float[Tensor, "*batch d_out"]:
    """Returns the decoder bias plus the contributions of all blocks: ``latents @ decoder + bias``."""
    if len(blocks) == 1 and blocks[0].n_copies == 1:
        return _plus_(matmul(latents, blocks[0].decoder), bias)
    sizes = sizes_of(blocks)
    if latents.shape[-1:] != (sum(sizes),):
        raise ValueError(
            f"The last dimension of `latents` must be {sum(sizes)}, one entry for each row, got shape "
            f"{tuple(latents.shape)}."
        )
    flat = latents.reshape(-1, sum(sizes)) if isinstance(latents, Tensor) else latents
    total = None
    for block, own in zip(blocks, _latents_of(flat, sizes), strict=True):
        if not block.n_latents:  # the products need at least one row
            continue
        product = matmul(own, block.decoder)
        if total is None:
            writes_all = product.shape[-1] == len(bias)
            total = _plus_(product, bias) if writes_all else bias.expand(len(product), -1).clone()
            if writes_all:
                continue
        start = block.writes.start
        for copy in range(block.n_copies):
            total = _AddInPlace.apply(total, product, start + copy * product.shape[-1])
    assert total is not None  # a dictionary has latents
    return total if latents.shape[:-1] == total.shape[:-1] else total.view(*latents.shape[:-1], len(bias))


def _plus_(product: Tensor, bias: Tensor) -> Tensor:
    """Returns the sum, in the memory of the product if both have the same type and the product isn't a view."""
    return product.add_(bias) if product.dtype == bias.dtype and not product._is_view() else product + bias


class _AddInPlace(torch.autograd.Function):
    """Adds to some columns of an array in place. Separate sums for each point would need several times the memory."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, part: Tensor, start: int) -> Tensor:
        ctx.columns, ctx.dtype = slice(start, start + part.shape[-1]), part.dtype
        ctx.mark_dirty(total)
        total[:, ctx.columns].add_(part)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        return grad, grad[:, ctx.columns].to(ctx.dtype), None


def _latents_of(latents: Tensor | SparseLatents, sizes: Sequence[int]) -> list[Tensor | SparseLatents]:
    if isinstance(latents, Tensor):
        return list(latents.split(sizes, dim=-1))
    own = split(latents.support, sizes)
    rows = torch.Size((latents.support.n_tokens,))
    values = own.take(latents.values)
    return [SparseLatents(value, support, rows) for value, support in zip(values, own.supports, strict=True)]
