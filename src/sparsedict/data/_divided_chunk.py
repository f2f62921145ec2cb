"""`DividedChunk`, rows whose activations were computed by several ranks, each for its own sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedict.batches import Activations
from sparsedict.data._row_source import Chunk
from sparsedict.parallel import Parallel


@dataclass(frozen=True, kw_only=True)
class DividedChunk(Chunk):
    """Rows of a chunk that are distributed over the parts of a run. The ranks exchange the rows of each batch.

    Attributes:
        owners: The part that computed each row of the chunk, ``[n_rows]``, on the CPU. ``activations`` contains the
            rows of this part, in the same order.
        parallel: The ranks of the run.
    """

    owners: Tensor
    parallel: Parallel

    def __len__(self) -> int:
        return len(self.owners)

    def of_part(self, start: int, stop: int, receivers: Tensor, part: int) -> Activations:
        owners, parallel = self.owners, self.parallel
        rows = torch.arange(start, stop, device="cpu") if self.order is None else self.order[start:stop].cpu()
        senders, parts = owners[rows], range(parallel.n_parts)
        is_own = senders == part
        # Rows are sent in the order of receivers, and arrive in the order of senders.
        own = [rows[is_own & (receivers == other)] for other in parts]
        arriving = [((senders == other) & (receivers == part)).nonzero().flatten() for other in parts]
        n_to, n_from = [len(index) for index in own], [len(index) for index in arriving]
        local = torch.cumsum(owners == part, 0)[torch.cat(own)] - 1
        order = torch.cat(arriving).argsort()

        def exchanged(values: Tensor) -> Tensor:
            sent = values.index_select(0, local.to(values.device))
            return parallel.exchange_rows(sent, n_to, n_from).index_select(0, order.to(values.device))

        return self.activations.map(exchanged)
