"""`ShardedLatents`, a run on several ranks that each hold a slice of the latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from sparsedict import checks
from sparsedict.dictionaries import Dictionary, gather_, shard_
from sparsedict.parallel import (
    Channels,
    Ranks,
    check_rows,
    checksum,
    collective,
    holding,
    host_group,
    initialise_environment,
    process_group,
)
from sparsedict.sharding import Peers
from sparsedict.training._good_state import NonFiniteLossError
from sparsedict.training._interrupt import Terminated

COMMON_ERRORS = (NonFiniteLossError, KeyboardInterrupt, Terminated)
"""Errors that all ranks raise at the same place."""

TIMEOUT = timedelta(minutes=10)


class ShardedLatents(Ranks):
    """A run on several ranks that each hold a slice of the latents of every dictionary.

    A rank holds its share of the encoder and decoder rows, of their gradients and of the optimiser's state, so that
    memory for these falls with the number of ranks. The result is that of a single process, except for rounding: the
    ranks select among the candidates of all, and add up their reconstructions. Pre-activations are never sent.

    With a process group or a mesh with one dimension, each rank reads the whole batch, so a stream runs its model on
    every rank. With a mesh of two dimensions, data x latents, the ranks of a row of the mesh divide the latents, and
    the rows divide each batch as with `DataParallel`.

    ``fit`` needs the whole dictionary on the device where it was created, such as the CPU, before and after training.
    During training it has this rank's rows on ``device``. Each rank writes its own rows of a checkpoint, to a folder
    that all ranks must see. Any number of ranks can resume, also with `DataParallel` or in a single process.

    Callbacks may read records and weights of rank 0, but they can't encode or reconstruct.

    Args:
        group: A process group, or a mesh with one or two dimensions; by default all processes.
        device: Device of this rank's rows. By default, the rows stay on the device of the dictionary.
        check_every: Steps between comparisons of the weights that several ranks have.
        timeout: Longest wait for another rank, after which the run ends.

    Raises:
        RuntimeError: If ``torch.distributed`` has no process group yet.

    Example:
        ``train.py``, which ``torchrun --nproc-per-node 8 train.py`` starts on eight GPUs, of which four share the
        latents::

            parallel = sd.ShardedLatents.from_environment(n_slices=4)
            history = sd.fit(sae, stream, n_tokens=100_000_000, checkpoint="run", parallel=parallel)
            if parallel.is_main:
                sae.save("sae")
    """

    def __init__(
        self,
        group: dist.ProcessGroup | DeviceMesh | None = None,
        *,
        device: torch.device | str | None = None,
        check_every: int = 100,
        timeout: timedelta = TIMEOUT,
    ) -> None:
        everyone, parts, slices = _groups(group)
        super().__init__(everyone, parts, check_every=check_every, timeout=timeout)
        self._slices = self._channels if slices is everyone else Channels(slices, timeout)
        self._peers = Peers(slices, self._slices.host)
        self.n_slices: int = self._peers.size
        self._device = None if device is None else torch.device(device)
        self._divided: set[str] = set()
        self._rows: dict[int, Tensor] = {}
        self._coordinates = self.exchange(self.part, self._peers.rank)

    @classmethod
    def from_environment(
        cls, n_slices: int | None = None, *, check_every: int = 100, timeout: timedelta = TIMEOUT
    ) -> ShardedLatents:
        """Returns the run of the processes that ``torchrun`` started, one for each GPU or CPU process.

        It initialises ``torch.distributed``, unless that was done before, and selects the GPU of this process.

        Args:
            n_slices: Number of ranks that share the latents, which are neighbours; by default all. Data is divided
                among the groups of ``n_slices`` ranks.
            check_every: See the class.
            timeout: See the class.

        Raises:
            RuntimeError: If the process wasn't started by ``torchrun``.
            ValueError: If the number of processes isn't a multiple of ``n_slices``.
        """
        initialise_environment(timeout)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        n_ranks = dist.get_world_size()
        n_slices = n_ranks if n_slices is None else checks.at_least("n_slices", n_slices, 1)
        if n_ranks % n_slices:
            raise ValueError(
                f"`n_slices` must divide the number of processes, {n_ranks}, got {n_slices}. Start a multiple of "
                f"{n_slices} processes, or choose another number."
            )
        if n_slices == n_ranks:
            return cls(device=device, check_every=check_every, timeout=timeout)
        mesh = init_device_mesh(device, (n_ranks // n_slices, n_slices), mesh_dim_names=("data", "latents"))
        return cls(mesh, device=device, check_every=check_every, timeout=timeout)

    @contextmanager
    def divided(self, dictionary: Any) -> Iterator[Any]:
        device = dictionary.encoder_bias.device
        try:
            yield dictionary
        except COMMON_ERRORS as error:
            # A second Ctrl-C stops one rank at once. It has no message.
            if not isinstance(error, KeyboardInterrupt) or error.args:
                self._restore(dictionary, device)
            raise
        self._restore(dictionary, device)

    def _restore(self, dictionary: Dictionary, device: torch.device) -> None:
        if dictionary.shard is not None:
            for weight in dictionary.shard.divided:
                self._rows.pop(id(weight))
            gather_(dictionary, device)

    def begin_(self, trainee: Any) -> None:
        dictionary = cast(Dictionary, trainee.dictionary)
        shard_(dictionary, self._peers, self._device)
        assert dictionary.shard is not None  # set above
        names = {id(weight): name for name, weight in (*dictionary.named_parameters(), *dictionary.named_buffers())}
        self._divided |= {names[id(weight)] for weight in dictionary.shard.divided}
        self._rows |= {id(weight): weight for weight in dictionary.shard.divided}

    def write_rows(self, folder: Path, rows: Mapping[str, Tensor]) -> None:
        from sparsedict.storage.rows import write_rows

        with collective():
            write_rows(folder, rows, self._channels.host)

    def on_main(self, function: Callable[[], Any]) -> Any:
        with self._peers.blocked():
            return super().on_main(function)

    def mean_gradients_(self, parameters: Iterable[Tensor], share: float) -> None:
        if self._parts is None:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        # Slices differ in size, which may change the order of a sum, so the common weights are sent separately.
        for is_own in (True, False):
            super().mean_gradients_([p for p in trained if (id(p) in self._rows) == is_own], share)
        for parameter in trained:
            if id(parameter) not in self._rows and parameter.grad is not None and parameter.grad.device.type != "cpu":
                # The order of a sum may also depend on the connections of accelerators.
                self._slices.broadcast_(parameter.grad)

    def sum_latents(self, tensor: Tensor) -> Tensor:
        return self._peers.sum(tensor.detach())

    def check_equal(self, tensors: Mapping[str, Tensor], step: int) -> None:
        if step % self._check_every or not tensors:
            return
        rows = self.exchange(*torch.stack([checksum(tensor) for tensor in tensors.values()]).tolist())
        names = list(tensors)
        common = [index for index, name in enumerate(names) if name not in self._divided]
        own = [index for index, name in enumerate(names) if name in self._divided]
        everyone = list(range(self.n_ranks))
        groups = [[rank for rank in everyone if self._coordinates[rank][1] == index] for index in range(self.n_slices)]
        for ranks, columns in ((everyone, common), *((ranks, own) for ranks in groups)):
            compared = [tuple(rows[rank][column] for column in columns) for rank in ranks]
            check_rows(compared, ranks, [names[column] for column in columns], step)

    def describe(self, dictionary: Any) -> str:
        batch = "all tokens" if self.n_parts == 1 else f"1 / {self.n_parts} of the tokens"
        mesh = f"{self.n_ranks} ranks" if self.n_parts == 1 else f"{self.n_parts} x {self.n_slices} ranks"
        return (
            f"sharded latents: {mesh}, each with about 1 / {self.n_slices} of the latents and {batch} of each batch. "
            f"Each rank holds about {holding(dictionary, self.n_slices)}"
        )

    def close(self) -> None:
        self._peers.close()
        super().close()
        self._slices.close()

    def __repr__(self) -> str:
        mesh = f", mesh={self.n_parts} x {self.n_slices}" if self.n_parts > 1 else ""
        return f"ShardedLatents(rank={self.rank}, n_ranks={self.n_ranks}{mesh})"


def _groups(
    group: dist.ProcessGroup | DeviceMesh | None,
) -> tuple[dist.ProcessGroup, dist.ProcessGroup | None, dist.ProcessGroup]:
    """Returns the groups of all ranks, of the ranks with the same latents, and of those that share the latents."""
    if not isinstance(group, DeviceMesh) or group.ndim == 1:
        found = process_group("ShardedLatents", group)
        return found, None, found
    names = group.mesh_dim_names
    if group.ndim != 2 or (names is not None and "latents" in names and names[1] != "latents"):
        raise ValueError(
            f"`group` must be a mesh of data x latents, such as init_device_mesh('cuda', (2, 4), "
            f"mesh_dim_names=('data', 'latents')), got the dimensions {names or group.ndim}."
        )
    ranks = group.mesh.flatten().tolist()
    if ranks != sorted(ranks):
        raise ValueError(f"`group` must be a mesh with ranks in ascending order, got {ranks}.")
    if ranks == list(range(dist.get_world_size())):
        everyone = dist.group.WORLD
        assert everyone is not None  # a mesh needs it
    else:
        everyone = host_group(ranks, TIMEOUT)[0]
    parts, slices = group.get_group(0), group.get_group(1)
    return everyone, parts if group.size(0) > 1 else None, slices
