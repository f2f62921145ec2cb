"""The latents of each process."""

from __future__ import annotations

from collections.abc import Sequence


def slices_of(sizes: Sequence[int], rank: int, n_ranks: int) -> tuple[slice, ...]:
    """Returns the slice of each block of latents that a process has, as ``Shard(0)`` of a DTensor divides rows.

    Args:
        sizes: Number of latents of each block.
        rank: Index of the process.
        n_ranks: Number of processes.

    Raises:
        ValueError: If a process would have no latent of a block that has latents.

    Example:
        >>> slices_of((8, 5), 1, 2)
        (slice(4, 8, None), slice(3, 5, None))
    """
    found = []
    for size in sizes:
        width = -(-size // n_ranks)
        if size and (n_ranks - 1) * width >= size:
            raise ValueError(
                f"`n_latents` must leave a latent of each layer for each of {n_ranks} processes, got {size}. Use a "
                "multiple of the number of processes, or fewer processes."
            )
        found.append(slice(min(rank * width, size), min((rank + 1) * width, size)))
    return tuple(found)
