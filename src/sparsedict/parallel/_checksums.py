"""Comparison of weights that must be equal on all ranks, by checksums of their bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.parallel._channels import Channels
from sparsedict.parallel._errors import RankError

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(tensor: Tensor) -> Tensor:
    """Returns the sum of the bits of all entries, read as integers, with overflow."""
    checks.instance("tensor", tensor, Tensor, "a tensor")
    bits = tensor.detach().contiguous().view(INTEGERS[tensor.element_size()])
    return bits.sum(dtype=torch.int64)


def check_equal(channels: Channels, tensors: Mapping[str, Tensor], step: int) -> None:
    """Raises `RankError` if the bits of a tensor differ between ranks."""
    if not tensors:
        return
    own = torch.stack([checksum(tensor) for tensor in tensors.values()]).tolist()
    check_rows(channels.exchange(tuple(own)), list(range(len(channels.ranks))), list(tensors), step)


def check_rows(rows: Sequence[tuple[int, ...]], ranks: Sequence[int], names: Sequence[str], step: int) -> None:
    """Raises `RankError` if checksums differ.

    Args:
        rows: The checksums of each rank.
        ranks: The numbers of these ranks.
        names: The names of the tensors.
        step: Number of steps done.
    """
    usual, count = Counter(rows).most_common(1)[0]
    usual = usual if count > 1 else rows[0]
    for rank, row in zip(ranks, rows, strict=True):
        differing = [name for name, value, other in zip(names, row, usual, strict=True) if value != other]
        if differing:
            raise RankError(
                f"Rank {rank} must have the same weights as the other ranks, but `{differing[0]}` differs after step "
                f"{step:,}. A loss, penalty or step hook of this rank may depend on its rank or random numbers. Use "
                "`out.whole` for numbers of the whole batch.",
                (rank,),
            )
