"""The Triton programs of the products. Positions are int64, since ``n_entries * d`` may exceed 2^31."""

# Triton infers types. Annotations other than `constexpr` have another meaning here.
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def weighted_rows(
    values, latents, offsets, rows, out, d, ACC: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr
):
    """For one token and block of columns: sums the weighted rows of its latents."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = columns < d
    begin = tl.load(offsets + token)
    end = tl.load(offsets + token + 1)
    total = tl.zeros((BLOCK_D,), ACC)
    for first in range(begin, end, BLOCK_E):
        entries = first + tl.arange(0, BLOCK_E)
        own = entries < end
        row = tl.load(latents + entries, mask=own, other=0).to(tl.int64)
        weight = tl.load(values + entries, mask=own, other=0).to(ACC)
        tile = tl.load(rows + row[:, None] * d + columns[None, :], mask=own[:, None] & inside[None, :], other=0)
        total += tl.sum(tile.to(ACC) * weight[:, None], axis=0)
    tl.store(out + token * d + columns, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def sampled_product(
    vectors,
    rows,
    tokens,
    latents,
    n_stored,
    out,
    n_entries,
    d,
    ACC: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """For a block of entries: multiplies the vector and the row of each. Entries of one token are adjacent."""
    entries = tl.program_id(0).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E)
    own = entries < tl.load(n_stored)
    token = tl.load(tokens + entries, mask=own, other=0).to(tl.int64)
    row = tl.load(latents + entries, mask=own, other=0).to(tl.int64)
    total = tl.zeros((BLOCK_E, BLOCK_D), ACC)
    for begin in range(0, d, BLOCK_D):
        columns = begin + tl.arange(0, BLOCK_D)
        wanted = own[:, None] & (columns < d)[None, :]
        left = tl.load(vectors + token[:, None] * d + columns[None, :], mask=wanted, other=0)
        right = tl.load(rows + row[:, None] * d + columns[None, :], mask=wanted, other=0)
        total += left.to(ACC) * right.to(ACC)
    tl.store(out + entries, tl.sum(total, axis=1).to(out.dtype.element_ty), mask=entries < n_entries)


@triton.jit
def weighted_tokens(
    values,
    order,
    tokens,
    offsets,
    piece_latents,
    piece_starts,
    slot_starts,
    vectors,
    out,
    parts,
    n_latents,
    d,
    PIECE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """For one piece of a latent's tokens and a block of columns: stores the sum as a result or as a partial sum."""
    piece = tl.program_id(0).to(tl.int64)
    latent = tl.load(piece_latents + piece).to(tl.int64)
    if latent < n_latents:
        columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        inside = columns < d
        first_piece = tl.load(piece_starts + latent)
        index = piece - first_piece
        begin = tl.load(offsets + latent) + index * PIECE
        end = tl.minimum(begin + PIECE, tl.load(offsets + latent + 1))
        total = tl.zeros((BLOCK_D,), ACC)
        for first in range(begin, end, BLOCK_E):
            places = first + tl.arange(0, BLOCK_E)
            own = places < end
            entry = tl.load(order + places, mask=own, other=0).to(tl.int64)
            token = tl.load(tokens + places, mask=own, other=0).to(tl.int64)
            weight = tl.load(values + entry, mask=own, other=0).to(ACC)
            tile = tl.load(
                vectors + token[:, None] * d + columns[None, :], mask=own[:, None] & inside[None, :], other=0
            )
            total += tl.sum(tile.to(ACC) * weight[:, None], axis=0)
        if tl.load(piece_starts + latent + 1) - first_piece == 1:
            tl.store(out + latent * d + columns, total.to(out.dtype.element_ty), mask=inside)
        else:
            slot = tl.load(slot_starts + latent) + index
            tl.store(parts + slot * d + columns, total, mask=inside)


@triton.jit
def add_parts(slot_latents, slot_starts, parts, out, n_latents, d, BLOCK_D: tl.constexpr):
    """For the first partial sum of a latent: adds the others, in order."""
    slot = tl.program_id(0).to(tl.int64)
    latent = tl.load(slot_latents + slot).to(tl.int64)
    if latent < n_latents:
        begin = tl.load(slot_starts + latent)
        if slot == begin:
            columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
            inside = columns < d
            total = tl.load(parts + begin * d + columns, mask=inside, other=0)
            for part in range(begin + 1, tl.load(slot_starts + latent + 1)):
                total += tl.load(parts + part * d + columns, mask=inside, other=0)
            tl.store(out + latent * d + columns, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def count_above(pre, threshold, step, counts, n_latents, BLOCK: tl.constexpr):
    """For one token: counts its entries above their threshold. NaN counts as above."""
    token = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.int32)
    for begin in range(0, n_latents, BLOCK):
        columns = begin + tl.arange(0, BLOCK)
        inside = columns < n_latents
        entry = tl.load(pre + token * n_latents + columns, mask=inside, other=0)
        limit = tl.load(threshold + columns * step, mask=inside, other=0)
        total += tl.where(entry <= limit, 0, inside.to(tl.int32))
    tl.store(counts + token, tl.sum(total, axis=0).to(tl.int64))


@triton.jit
def gather_above(pre, threshold, step, ends, latents, values, n_latents, capacity, BLOCK: tl.constexpr):
    """For one token: writes its entries above their threshold consecutively, up to the capacity.

    The token's entries are ``ends[token]:ends[token + 1]``.
    """
    token = tl.program_id(0).to(tl.int64)
    start = tl.load(ends + token)
    for begin in range(0, n_latents, BLOCK):
        columns = begin + tl.arange(0, BLOCK)
        inside = columns < n_latents
        entry = tl.load(pre + token * n_latents + columns, mask=inside, other=0)
        limit = tl.load(threshold + columns * step, mask=inside, other=0)
        wanted = tl.where(entry <= limit, 0, inside.to(tl.int32))
        places = start + tl.cumsum(wanted, axis=0) - 1
        fits = (wanted == 1) & (places < capacity)
        tl.store(latents + places, columns.to(tl.int64), mask=fits)
        tl.store(values + places, entry, mask=fits)
        start += tl.sum(wanted, axis=0)
