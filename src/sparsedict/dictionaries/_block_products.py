"""The encoder's and the decoder's products of all blocks of a dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sparsedict.dictionaries._blocks import Block
from sparsedict.kernels import Affine, affine_at, matmul
from sparsedict.latents import SparseLatents, Support
from sparsedict.splits import split


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
    scales: Float[Tensor, " d_out"] | None = None,
) -> Float[Tensor, "*batch d_out"]:
    """Returns the decoder bias plus the contributions of all blocks: ``latents @ decoder * scales + bias``.

    Args:
        blocks: The blocks.
        latents: The latents of all blocks.
        bias: The bias of each output column.
        scales: A factor of the contributions to each output column, without gradient.
    """
    if len(blocks) == 1 and blocks[0].n_copies == 1:
        return _plus_(matmul(latents, blocks[0].decoder, scales), bias)
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
        product = matmul(own, block.decoder, None if scales is None or block.n_copies > 1 else scales[block.writes])
        if total is None:
            writes_all = product.shape[-1] == len(bias)
            total = _plus_(product, bias) if writes_all else bias.expand(len(product), -1).clone()
            if writes_all:
                continue
        start = block.writes.start
        for copy in range(block.n_copies):
            columns = slice(start + copy * product.shape[-1], start + (copy + 1) * product.shape[-1])
            own = product if scales is None or block.n_copies == 1 else product * scales[columns]
            total = _AddInPlace.apply(total, own, columns)
    assert total is not None  # a dictionary has latents
    return total if latents.shape[:-1] == total.shape[:-1] else total.view(*latents.shape[:-1], len(bias))


def _plus_(product: Tensor, bias: Tensor) -> Tensor:
    """Returns the sum, in the memory of the product if both have the same type and the product isn't a view."""
    return product.add_(bias) if product.dtype == bias.dtype and not product._is_view() else product + bias


class _AddInPlace(torch.autograd.Function):
    """Adds to some columns of an array in place. Separate sums for each point would need several times the memory."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, part: Tensor, columns: slice) -> Tensor:
        ctx.columns, ctx.dtype = columns, part.dtype
        ctx.mark_dirty(total)
        total[:, columns].add_(part)
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
