"""`HarvestRanks`, ranks that run a model and send its activations to the ranks that train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sparsedict import checks
from sparsedict.batches import Activations
from sparsedict.data._batches import Batches
from sparsedict.data._row_source import Chunk, Position, RowSource
from sparsedict.data._source import ActivationSource
from sparsedict.parallel import Alone, Channels, DataParallel, Parallel, RankError, collective, host_group

Result = TypeVar("Result")
ALONE = Alone()


class HarvestRanks:
    """Divides all processes into ranks that train and ranks that run the model, so that these needn't share a GPU.

    The last ``n_ranks`` processes run the model, each on its part of the sequences. They send the rows of each batch to
    the ranks that train, and compute the next batch during the training step. The batches are those of the stream in a
    single process. A run is resumed as usual.

    All processes construct this object at the same place.

    Args:
        n_ranks: Number of processes that run the model.
        timeout: Longest wait for another process.

    Attributes:
        group: The process group of this side, for ``sd.DataParallel(ranks.group)`` or a mesh on the training side.
        is_harvester: Whether this process runs the model.

    Raises:
        RuntimeError: If ``torch.distributed`` has no process group yet.
        ValueError: If no process would be left for training.

    Example:
        ``train.py``, which ``torchrun --nproc-per-node 8 train.py`` starts. Two GPUs run the model::

            ranks = sd.data.HarvestRanks(2)
            history = ranks.run(
                lambda: sd.ActivationStream(sd.Site(load_model(), "model.layers.8.mlp"), tokens),
                lambda data: sd.fit(sae, data, n_tokens=100_000_000, parallel=sd.DataParallel(ranks.group)),
            )
    """

    def __init__(self, n_ranks: int, *, timeout: timedelta = timedelta(minutes=10)) -> None:
        n_ranks = checks.at_least("n_ranks", n_ranks, 1)
        if not dist.is_initialized():
            raise RuntimeError(
                "torch.distributed must be initialised before `HarvestRanks`. Start the script by torchrun, and call "
                "`torch.distributed.init_process_group`."
            )
        n_all = dist.get_world_size()
        if n_ranks >= n_all:
            raise ValueError(f"`n_ranks` must be less than the number of processes, {n_all}, got {n_ranks}.")
        everyone = dist.group.WORLD
        assert everyone is not None  # it is initialised
        self._channels = Channels(everyone, timeout)
        self._timeout = timeout
        self._n_train = n_all - n_ranks
        self.is_harvester: bool = dist.get_rank() >= self._n_train
        own = range(self._n_train, n_all) if self.is_harvester else range(self._n_train)
        self.group: Any = host_group(list(own), timeout, None)[0]

    def run(self, harvest: Callable[[], ActivationSource], train: Callable[[Any], Result]) -> Result | None:
        """Runs the model on some processes, and trains on the others until the training ends.

        Args:
            harvest: Returns the stream. It is called on the processes that run the model.
            train: Trains on the data that it is given, in the same way as on a stream. It is called on the others.

        Returns:
            The result of ``train``; ``None`` on a process that runs the model.

        Raises:
            RankError: If a process failed. The error names its rank.
        """
        if self.is_harvester:
            Server(harvest, self._channels, self._n_train, self.group, self._timeout).run()
            return None
        client = Client(self._channels, self._n_train)
        try:
            result = train(client)
        except RankError:
            raise
        except BaseException:
            # If a process of this side failed, the others are waiting for it.
            with suppress(RuntimeError):
                client.ask("close")
            raise
        client.ask("close")
        return result


class Server:
    """The side that runs the model.

    Args:
        harvest: Returns the stream.
        channels: All processes.
        n_train: Number of processes that train, which are the first.
        group: The processes of this side.
        timeout: Longest wait for another process.
    """

    def __init__(
        self, harvest: Callable[[], ActivationSource], channels: Channels, n_train: int, group: Any, timeout: timedelta
    ) -> None:
        self._harvest, self._channels, self._n_train = harvest, channels, n_train
        self._n_own = len(channels.ranks) - n_train
        self._parallel: Parallel = ALONE if self._n_own == 1 else DataParallel(group, timeout=timeout)
        self._source: ActivationSource | None = None
        self._batches: Batches | None = None
        self._ahead: tuple[Activations, int, dict[str, Any]] | Exception | None = None
        self._sent: Activations | None = None
        self._places: list[tuple[int, ...]] = []

    def run(self) -> None:
        """Answers requests until the training ends. An error is sent to the ranks that train, and raised here too."""
        while True:
            try:
                request, value = self._channels.share(None)
                places = self._channels.exchange((0, 0)) if request == "open" else []
            except RuntimeError as error:
                raise RankError(
                    f"A rank from 0 to {self._n_train - 1}, which trains, ended or failed, see its error.",
                    tuple(range(self._n_train)),
                ) from error
            if request == "close":
                return
            self._places = places or self._places
            error: Exception | None = None
            answer: Any = None
            try:
                answer = self._answer(request, value)
            except Exception as found:
                error = found
            self._respond(None if error is None else f"{type(error).__name__}: {error}", answer)
            if error is not None:
                raise error
            if request == "next":
                self._send()
                # The others train on this batch in the meantime.
                self._ahead = self._tried()

    def _answer(self, request: str, value: Any) -> Any:
        if request == "open":
            self._source = self._harvest() if self._source is None else self._source
            if getattr(self._source, "mix", "tokens") != "tokens":
                raise ValueError("The stream must have mix='tokens' if its rows are sent to other ranks.")
            self._batches, self._ahead = self._source.batches(repeat=value, parallel=self._parallel), None
            return self._batches.described()
        assert self._batches is not None  # the first request is "open"
        if request == "next":
            found = self._tried() if self._ahead is None else self._ahead
            self._ahead = None
            if isinstance(found, Exception):
                raise found
            self._sent, n_rows, state = found
            return self._sent.rows(slice(0, 0)).map(lambda rows: rows.cpu().clone()), n_rows, state
        if request == "expect":
            self._batches.expect(value)
        if request == "load":
            self._batches.load_state_dict(value)
            self._ahead = None
        return self._batches.state_dict()

    def _tried(self) -> tuple[Activations, int, dict[str, Any]] | Exception:
        """Returns the next batch, the number of its rows over all ranks and the state after it; or an error."""
        assert self._batches is not None  # opened
        before = self._batches.n_tokens_yielded
        try:
            batch = self._batches.next_batch()
        except Exception as error:
            return error
        return batch, self._batches.n_tokens_yielded - before, self._batches.state_dict()

    def _respond(self, error: str | None, answer: Any) -> None:
        everyone = self._channels.gather((error, answer) if self._channels.rank == self._n_train else (error, None))
        failed = [rank for rank, found in enumerate(everyone) if found is not None and found[0] is not None]
        if failed and error is None:
            raise RankError(f"Rank {failed[0]} failed: {everyone[failed[0]][0]}", tuple(failed))

    def _send(self) -> None:
        """Sends this rank's rows of the batch, in the order of the whole batch."""
        assert self._sent is not None  # by the answer
        batch = self._sent
        own = torch.arange(batch.n_tokens, device="cpu") * self._n_own + self._parallel.part

        def send(values: Tensor) -> Tensor:
            for rank, (part, n_parts) in enumerate(self._places[: self._n_train]):
                rows = values.index_select(0, (own % n_parts == part).nonzero().flatten().to(values.device))
                sent, group = self._channels.sent(rows)
                dist.send(sent, rank, group=group)
            return values

        with collective():
            batch.map(send)


class Client:
    """The data on the side that trains, which has the interface of a stream.

    Args:
        channels: All processes.
        n_train: Number of processes that train.
    """

    def __init__(self, channels: Channels, n_train: int) -> None:
        self.channels = channels
        self.n_train = n_train

    def ask(self, request: str, value: Any = None, place: tuple[int, int] = (0, 1)) -> Any:
        """Sends a request to all ranks that run the model, and returns the answer. All training ranks call it.

        Raises:
            RankError: If a rank that runs the model failed.
        """
        harvesters = tuple(range(self.n_train, len(self.channels.ranks)))
        try:
            self.channels.share((request, value))
            if request == "close":
                return None
            if request == "open":
                self.channels.exchange(place)
            found = self.channels.gather(None)
        except RuntimeError as error:
            named = ", ".join(map(str, harvesters))
            raise RankError(
                f"A rank that runs the model ({named}) ended or didn't respond, or another rank that trains did. "
                "Resume the run from its last checkpoint with `resume=True`.",
                harvesters,
            ) from error
        for rank in harvesters:
            if found[rank][0] is not None:
                raise RankError(f"Rank {rank}, which runs the model, failed: {found[rank][0]}", (rank,))
        return found[self.n_train][1]

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

    def __init__(self, client: Client, repeat: bool, parallel: Parallel) -> None:
        self._client = client
        self._place = parallel.part, parallel.n_parts
        described, batch_size, seed, state = client.ask("open", repeat, self._place)
        super().__init__(_ReceivedRows(described), batch_size=batch_size, seed=seed, repeat=repeat)
        self._state: Mapping[str, Any] = state
        self._parallel = parallel

    def expect(self, n_tokens: int) -> None:
        self._update(self._client.ask("expect", n_tokens))

    def next_batch(self) -> Activations:
        template, n_rows, state = self._client.ask("next")
        part, n_parts = self._place
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

        with collective():
            return template.map(receive)

    def _update(self, state: Mapping[str, Any]) -> None:
        self._state = state
        self.n_tokens_yielded = int(state["n_served"])
        self.epoch = int(state["epoch"])

    def state_dict(self) -> dict[str, Any]:
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._update(self._client.ask("load", dict(state)))
