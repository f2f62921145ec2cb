"""`ShardedLatents`, a run on several ranks that each hold a slice of the latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from sparsedict.dictionaries import Dictionary, gather_, shard_
from sparsedict.parallel import DataParallel, Parallel
from sparsedict.sharding import Peers
from sparsedict.training._good_state import NonFiniteLossError
from sparsedict.training._resample import Resample

COMMON_ERRORS = (NonFiniteLossError, KeyboardInterrupt)
"""Errors that all ranks raise at the same place."""


class ShardedLatents(Parallel):
    """A run on several ranks that each hold a slice of the latents of every dictionary.

    A rank holds its share of the encoder and decoder rows, of their gradients and of the optimiser's state, so that
    memory for these falls with the number of ranks. The result is that of a single process, except for rounding: the
    ranks select among the candidates of all, and add up their reconstructions. Pre-activations are never sent.

    Each rank reads the whole batch, so a stream runs its model on every rank. ``fit`` needs the whole dictionary on the
    device where it was created, such as the CPU, before and after training. During training it has this rank's rows on
    ``device``.

    Callbacks may read records and weights of rank 0, but they can't encode or reconstruct. `Resample` and checkpoints
    aren't supported.

    Args:
        group: A process group, or a mesh with one dimension; by default all processes.
        device: Device of this rank's rows. By default, the rows stay on the device of the dictionary.
        check_every: Steps between comparisons of the parameters that all ranks have.
        timeout: Longest wait for another rank, after which the run ends.

    Raises:
        RuntimeError: If ``torch.distributed`` has no process group yet.

    Example:
        ``train.py``, which ``torchrun --nproc-per-node 4 train.py`` starts::

            torch.distributed.init_process_group()
            parallel = sd.ShardedLatents()
            history = sd.fit(sae, stream, n_tokens=100_000_000, parallel=parallel)
            if parallel.is_main:
                sae.save("sae")
    """

    part = 0
    n_parts = 1

    def __init__(
        self,
        group: dist.ProcessGroup | DeviceMesh | None = None,
        *,
        device: torch.device | str | None = None,
        check_every: int = 100,
        timeout: timedelta = timedelta(minutes=10),
    ) -> None:
        self._ranks = DataParallel(group, check_every=check_every, timeout=timeout)
        self._peers = Peers(group.get_group() if isinstance(group, DeviceMesh) else group)
        self._device = None if device is None else torch.device(device)
        self._divided: set[str] = set()
        self.rank: int = self._ranks.rank
        self.n_ranks: int = self._ranks.n_ranks

    def running(self) -> AbstractContextManager[None]:
        return self._ranks.running()

    @contextmanager
    def divided(self, dictionary: Any) -> Iterator[Any]:
        device = dictionary.encoder_bias.device
        try:
            yield dictionary
        except COMMON_ERRORS:
            self._restore(dictionary, device)
            raise
        self._restore(dictionary, device)

    def _restore(self, dictionary: Dictionary, device: torch.device) -> None:
        if dictionary.shard is not None:
            gather_(dictionary, device)

    def begin_(self, trainee: Any) -> None:
        for hook in trainee.step_hooks:
            if isinstance(hook, Resample):
                raise ValueError(
                    "`step_hooks` must not contain Resample if latents are divided among ranks, got "
                    f"{hook!r}. Use the penalty sd.AuxK() instead."
                )
        dictionary = cast(Dictionary, trainee.dictionary)
        shard_(dictionary, self._peers, self._device)
        assert dictionary.shard is not None  # set above
        names = {id(weight): name for name, weight in (*dictionary.named_parameters(), *dictionary.named_buffers())}
        self._divided |= {names[id(weight)] for weight in dictionary.shard.divided}

    def check_options(self, *, checkpoint: Any) -> None:
        if checkpoint is not None:
            raise ValueError(
                "`checkpoint` must be None with ShardedLatents, which has no checkpoints yet, got "
                f"{checkpoint!r}. Leave it out, or use sd.DataParallel."
            )

    def exchange(self, *numbers: int) -> list[tuple[int, ...]]:
        return self._ranks.exchange(*numbers)

    def share(self, value: Any) -> Any:
        return self._ranks.share(value)

    def gather(self, value: Any) -> list[Any]:
        return self._ranks.gather(value)

    def on_main(self, function: Callable[[], Any]) -> Any:
        with self._peers.blocked():
            return super().on_main(function)

    def values(self, tensor: Tensor) -> Tensor:
        return self._ranks.values(tensor)

    def among_largest(self, values: Tensor, n: int) -> Tensor:
        return self._ranks.among_largest(values, n)

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        self._ranks.broadcast_(tensors)

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def rows(self, tensor: Tensor) -> Tensor:
        return tensor

    def exchange_rows(self, tensor: Tensor, n_to: Sequence[int], n_from: Sequence[int]) -> Tensor:
        return tensor

    def mean_gradients_(self, parameters: Iterable[Tensor], share: float) -> None:
        pass

    def sum_latents(self, tensor: Tensor) -> Tensor:
        return self._peers.sum(tensor.detach())

    def check_equal(self, tensors: Mapping[str, Tensor], step: int) -> None:
        self._ranks.check_equal({name: own for name, own in tensors.items() if name not in self._divided}, step)

    def describe(self, dictionary: Any) -> str:
        weights = {id(weight): weight for weight in (*dictionary.parameters(), *dictionary.buffers())}
        n_bytes = sum(weight.nbytes for weight in weights.values())
        return (
            f"sharded latents: {self.n_ranks} ranks, each with about {n_bytes / self.n_ranks / 2**20:,.1f} MiB of "
            f"{n_bytes / 2**20:,.1f} MiB of weights and with all tokens of each batch"
        )

    def __repr__(self) -> str:
        return f"ShardedLatents(rank={self.rank}, n_ranks={self.n_ranks})"
