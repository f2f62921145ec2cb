"""Launches the Triton programs of the four products: shapes, dtypes and the grid."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict.kernels._triton import _programs as programs
from sparsedict.latents import Support, TransposedSupport

PIECE = 128
"""Number of tokens of one latent per program. A latent with more is split into pieces, whose sums are added later."""

MAX_COLUMNS = 512
"""Number of columns per program."""

TILE = 2048
"""Number of entries that a program reads at a time."""

MIN_COLUMNS = 16


def weighted_rows(
    values: Float[Tensor, " n_entries"], support: Support, rows: Float[Tensor, "n_latents d"]
) -> Float[Tensor, "n_tokens d"]:
    d = rows.shape[1]
    out = torch.empty(support.n_tokens, d, dtype=_promoted(values, rows), device=rows.device)
    if out.numel():
        block = _block(d)
        with _on(rows.device):
            programs.weighted_rows[support.n_tokens, triton.cdiv(d, block["BLOCK_D"])](
                values.contiguous(), support.latents, support.offsets, rows.contiguous(), out, d, ACC=_sum(out), **block
            )
    return out


def sampled_product(
    vectors: Float[Tensor, "n_tokens d"], rows: Float[Tensor, "n_latents d"], support: Support
) -> Float[Tensor, " n_entries"]:
    d, n_entries = rows.shape[1], support.n_entries
    out = torch.empty(n_entries, dtype=_promoted(vectors, rows), device=rows.device)
    if n_entries:
        block = _block(d)
        with _on(rows.device):
            programs.sampled_product[(triton.cdiv(n_entries, block["BLOCK_E"]),)](
                vectors.contiguous(),
                rows.contiguous(),
                support.tokens,
                support.latents,
                support.offsets[-1:],
                out,
                n_entries,
                d,
                ACC=_sum(out),
                **block,
            )
    return out


def weighted_tokens(
    values: Float[Tensor, " n_entries"], support: Support, vectors: Float[Tensor, "n_tokens d"]
) -> Float[Tensor, "n_latents d"]:
    n_latents, d = support.n_latents, vectors.shape[1]
    dtype = _promoted(values, vectors)
    if not support.n_entries:
        return torch.zeros(n_latents, d, dtype=dtype, device=vectors.device)
    out = torch.empty(n_latents, d, dtype=dtype, device=vectors.device)
    turned, pieces, block = support.by_latent, _pieces(support), _block(d)
    n_blocks, n_slots = triton.cdiv(d, block["BLOCK_D"]), len(pieces.slot_latents)
    cut: dict[str, Any] = block | {"PIECE": PIECE}
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    parts = torch.empty(n_slots, d, dtype=exact, device=vectors.device)
    with _on(vectors.device):
        programs.weighted_tokens[len(pieces.latents), n_blocks](
            values.contiguous(),
            turned.order,
            turned.tokens,
            turned.offsets,
            pieces.latents,
            pieces.starts,
            pieces.slot_starts,
            vectors.contiguous(),
            out,
            parts,
            n_latents,
            d,
            ACC=_sum(out),
            **cut,
        )
        if n_slots:
            programs.add_parts[n_slots, n_blocks](
                pieces.slot_latents, pieces.slot_starts, parts, out, n_latents, d, BLOCK_D=block["BLOCK_D"]
            )
    return out


def sum_by_latent(values: Float[Tensor, " n_entries"], support: Support) -> Float[Tensor, " n_latents"]:
    return weighted_tokens(values, support, values.new_ones(support.n_tokens, 1)).flatten()


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Splits the tokens of latents into pieces. Sizes are upper bounds, to avoid synchronising with the device.

    Attributes:
        latents: Latent of each piece; ``n_latents`` for unused pieces.
        starts: Latent ``i`` has the pieces ``starts[i]:starts[i + 1]``, at least one.
        slot_latents: Latent of each partial sum; ``n_latents`` for unused ones.
        slot_starts: Latent ``i`` has the partial sums ``slot_starts[i]:slot_starts[i + 1]``, none for a single piece.
    """

    latents: Int[Tensor, " n_pieces"]
    starts: Int[Tensor, " n_latents_and_one"]
    slot_latents: Int[Tensor, " n_slots"]
    slot_starts: Int[Tensor, " n_latents_and_one"]


_known: WeakKeyDictionary[TransposedSupport, _Pieces] = WeakKeyDictionary()


def _pieces(support: Support) -> _Pieces:
    turned = support.by_latent
    found = _known.get(turned)
    if found is None:
        numbers = -(-turned.offsets.diff() // PIECE)
        starts = _starts(numbers.clamp_min(1))
        slot_starts = _starts(torch.where(numbers > 1, numbers, 0))
        # All pieces of a latent except one are full. A latent with several has fewer than twice its full pieces.
        n_full = support.n_entries // PIECE
        latents = _owners(starts, support.n_latents + n_full)
        found = _known[turned] = _Pieces(latents, starts, _owners(slot_starts, 2 * n_full), slot_starts)
    return found


def _starts(numbers: Tensor) -> Tensor:
    return torch.nn.functional.pad(numbers.cumsum(0), (1, 0))


def _owners(starts: Tensor, n: int) -> Tensor:
    return torch.searchsorted(starts[1:], torch.arange(n, device=starts.device), right=True)


def _promoted(one: Tensor, other: Tensor) -> torch.dtype:
    return torch.promote_types(one.dtype, other.dtype)


def _sum(out: Tensor) -> Any:
    return tl.float64 if out.dtype == torch.float64 else tl.float32


def _block(d: int) -> dict[str, Any]:
    """Returns fixed block sizes. Autotuning would make results differ between runs."""
    columns = min(MAX_COLUMNS, max(MIN_COLUMNS, 1 << (d - 1).bit_length()))
    return {"BLOCK_E": min(32, TILE // columns), "BLOCK_D": columns}


def _on(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
