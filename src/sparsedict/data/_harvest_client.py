"""The ranks that train on the activations of other ranks: they request batches and receive them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sparsedict.batches import Activations
from sparsedict.data._batches import Batches
from sparsedict.data._row_source import Chunk, Position, RowSource
from sparsedict.parallel import Alone, Channels, CollectiveError, Parallel, RankError, collective

ALONE = Alone()


class Client:
    """The data on the side that trains, which has the interface of a stream.

    Args:
        channels: All processes.
        n_train: Number of processes that train.
        lost: Returns an error that names the failed process, after a failed collective operation.
    """

    def __init__(self, channels: Channels, n_train: int, lost: Callable[[CollectiveError], RankError]) -> None:
        self.channels = channels
        self.n_train = n_train
        self._lost = lost

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Returns a context in which the failure of any process is a `RankError` that names it."""
        try:
            with collective():
                yield
        except CollectiveError as error:
            raise self._lost(error) from error

    def ask(self, request: str, value: Any = None, part: tuple[int, int] = (0, 1)) -> Any:
        """Sends a request to all ranks that run the model, and returns the answer. All training ranks call it.

        Raises:
            RankError: If a rank that runs the model failed.
        """
        with self.connected():
            self.channels.share((request, value))
            if request == "close":
                return None
            if request == "open":
                self.channels.exchange(part)
            found = self.channels.gather(None)
        for rank in range(self.n_train, len(found)):
            error, _, number = found[rank]
            if error is not None:
                raise RankError(f"Rank {rank}, which runs the model, failed: {error}", (rank,))
            if number is not None and self.channels.rank == 0:
                # It stops the training in the same way as a signal to this process.
                signal.raise_signal(number)
        return found[self.n_train][1]

    def closes(self) -> bool:
        """Ends the other side after an error, and returns whether this succeeded."""
        try:
            self.channels.share(("close", None))
        except CollectiveError:
            return False
        return True

    def batches(self, *, repeat: bool = True, parallel: Parallel = ALONE) -> Batches:
        """Returns the batches of the stream, of which this rank receives its part."""
        return _ReceivedBatches(self, repeat, parallel)


class _ReceivedRows(RowSource):
    """The description of rows that another rank computes."""

    def __init__(self, described: Mapping[str, Any]) -> None:
        for name, value in described.items():
            setattr(self, name, value)

    def chunks(self, epoch: int, start: Position, max_rows: int | None = None) -> Iterator[Chunk]:
        raise AssertionError("the rows are received")


class _ReceivedBatches(Batches):
    """Batches that other ranks compute."""

    can_stop = False

    def __init__(self, client: Client, repeat: bool, parallel: Parallel) -> None:
        self._client = client
        self._part = parallel.part, parallel.n_parts
        described, batch_size, seed, state = client.ask("open", repeat, self._part)
        super().__init__(_ReceivedRows(described), batch_size=batch_size, seed=seed, repeat=repeat)
        self._state: Mapping[str, Any] = state
        self._parallel = parallel

    def expect(self, n_tokens: int) -> None:
        self._update(self._client.ask("expect", n_tokens))

    def next_batch(self) -> Activations:
        template, n_rows, state = self._client.ask("next")
        part, n_parts = self._part
        if n_rows < n_parts:
            raise ValueError(
                f"`batch_size` must be at least the number of ranks, {n_parts}, got a batch of {n_rows} tokens."
            )
        self._update(state)
        senders = range(self._client.n_train, len(self._client.channels.ranks))
        rows = [torch.arange(index, n_rows, len(senders), device="cpu") for index in range(len(senders))]
        rows = [own[own % n_parts == part] for own in rows]
        order = torch.cat(rows).argsort()

        def receive(values: Tensor) -> Tensor:
            parts = [values.new_empty(len(own), *values.shape[1:]) for own in rows]
            for found, rank in zip(parts, senders, strict=True):
                dist.recv(found, rank, group=self._client.channels.host)
            return torch.cat(parts).index_select(0, order)

        with self._client.connected():
            return template.map(receive)

    def _update(self, state: Mapping[str, Any]) -> None:
        self._state = state
        self.n_tokens_yielded = int(state["n_served"])
        self.epoch = int(state["epoch"])

    def state_dict(self) -> dict[str, Any]:
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._update(self._client.ask("load", dict(state)))
