"""`HarvestRanks`, ranks that run a model and send its activations to the ranks that train."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from sparsedict import checks
from sparsedict.data._harvest_client import Client
from sparsedict.data._harvest_server import Server
from sparsedict.data._source import ActivationSource
from sparsedict.parallel import Channels, RankError, Reports, host_group

Result = TypeVar("Result")


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
        self._n_runs = 0
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
        self._n_runs += 1
        name, rank = f"{self._channels.name}/{self._n_runs}", self._channels.rank
        server = (
            Server(harvest, self._channels, self._n_train, self.group, self._timeout) if self.is_harvester else None
        )
        end = self._channels.close if server is None else server.close
        reports = Reports(name, rank, len(self._channels.ranks), self._timeout, end)
        with reports.running():
            if server is not None:
                server.run()
                return None
            client = Client(self._channels, self._n_train, reports.lost)
            try:
                result = train(client)
            except RankError:
                raise
            except BaseException as error:
                # If a process of this side failed, the others are waiting for it.
                if not client.closes():
                    raise
                own = error
            else:
                client.ask("close")
                return result
        # The other side has ended as usual, so the connections are intact.
        raise own
