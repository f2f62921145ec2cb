"""The ranks that run a model: they answer the requests of the ranks that train, and send them activations."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sparsedict.batches import Activations
from sparsedict.data._batches import Batches
from sparsedict.data._deferred_signals import DeferredSignals
from sparsedict.data._source import ActivationSource
from sparsedict.parallel import Alone, Channels, CollectiveError, DataParallel, Parallel, RankError, collective

ALONE = Alone()


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
        self._signals = DeferredSignals()
        self._parts: list[tuple[int, ...]] = []

    def close(self) -> None:
        """Closes all connections after a failure, so that processes that wait for this one receive an error."""
        self._channels.close()
        if isinstance(self._parallel, DataParallel):
            self._parallel.close()

    def run(self) -> None:
        """Answers requests until the training ends. An error is sent to the ranks that train, and raised here too.

        Raises:
            CollectiveError: If another process ended.
        """
        with DeferredSignals() as self._signals:
            self._answer_requests()

    def _answer_requests(self) -> None:
        while True:
            request, value = self._channels.share(None)
            parts = self._channels.exchange((0, 0)) if request == "open" else []
            if request == "close":
                return
            self._parts = parts or self._parts
            error: Exception | None = None
            answer: Any = None
            try:
                answer = self._answer(request, value)
            except (CollectiveError, RankError):
                raise  # another process failed
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
        except CollectiveError:
            raise
        except Exception as error:
            return error
        return batch, self._batches.n_tokens_yielded - before, self._batches.state_dict()

    def _respond(self, error: str | None, answer: Any) -> None:
        answer = answer if self._channels.rank == self._n_train else None
        everyone = self._channels.gather((error, answer, self._signals.taken()))
        failed = [rank for rank, found in enumerate(everyone) if found is not None and found[0] is not None]
        if failed and error is None:
            raise RankError(f"Rank {failed[0]} failed: {everyone[failed[0]][0]}", tuple(failed))

    def _send(self) -> None:
        """Sends this rank's rows of the batch, in the order of the whole batch."""
        assert self._sent is not None  # by the answer
        batch = self._sent
        own = torch.arange(batch.n_tokens, device="cpu") * self._n_own + self._parallel.part

        def send(values: Tensor) -> Tensor:
            for rank, (part, n_parts) in enumerate(self._parts[: self._n_train]):
                rows = values.index_select(0, (own % n_parts == part).nonzero().flatten().to(values.device))
                sent, group = self._channels.sent(rows)
                dist.send(sent, rank, group=group)
            return values

        with collective():
            batch.map(send)
