"""`Parallel`, the interface between the training loop and its processes."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparsedict.parallel._errors import RankError

Module = TypeVar("Module", bound=nn.Module)
Value = TypeVar("Value")


class Parallel(ABC):
    """How the processes of a run, the *ranks*, divide its work.

    A run on several ranks has the results of a single process, except for rounding. All ranks execute the same
    training loop, with the same arguments. Each method of this class is therefore called by all ranks in the same
    order, and is a collective operation unless its description says otherwise.

    Work is divided in two ways, which can be combined:

    - **By data.** The rows of each batch are dealt to ``n_parts`` parts: row ``j`` of a batch belongs to part
      ``j % n_parts``, so that a batch, and the position in the data, are the same for any number of ranks. Ranks of
      the same part hold the same rows.
    - **By latents.** The ranks of one part may each hold a slice of the latents of every dictionary
      (:meth:`divided`). Tensors over latents, ``[n_latents]``, then have the length of the slice everywhere in the
      loop: counts, masks of dead latents, thresholds, decoder norms.

    The loop reduces in two directions. :meth:`sum`, :meth:`rows` and :meth:`mean_gradients_` act over the parts,
    between ranks that hold the same latents. :meth:`sum_latents` acts over the slices, between ranks that hold the same
    rows.
    Operations that are neither sums over rows nor over latents, such as the selection of the largest entries or the
    reconstruction, are steps of the dictionary that :meth:`divided` returns.

    Decisions that change the course of the loop (stop, write a checkpoint, compute a step again) depend on numbers
    from :meth:`exchange`, :meth:`share` or :meth:`sum` only, so that all ranks decide alike.

    The methods of this class are those of a single process, so a kind overrides those that act on several ranks.

    Attributes:
        rank: Number of this process, from 0.
        n_ranks: Number of processes.
        part: Number of this rank's part of each batch, from 0.
        n_parts: Number of parts into which each batch is divided.
        n_slices: Number of slices into which the latents are divided.
    """

    rank: int
    n_ranks: int
    part: int
    n_parts: int
    n_slices: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which shows progress, calls callbacks and writes files. It isn't collective."""
        return self.rank == 0

    # The run

    def running(self) -> AbstractContextManager[None]:
        """Returns the context of a run. An error on one rank ends the context of every rank with an error.

        Raises:
            RankError: On leaving the context, if another rank failed. The error names the rank and its error.
        """
        return nullcontext()

    @contextmanager
    def divided(self, dictionary: Module) -> Iterator[Module]:
        """Returns a context with the dictionary that this rank trains in place of ``dictionary``.

        The yielded dictionary has the interface of a ``Dictionary``. For replicas it is the same object. For latents in
        slices it is another one, whose encoder, selection, decoder and tensors over latents are those of the slice, and
        whose ``reconstruct`` returns the output of all latents. On leaving the context, also after an error,
        ``dictionary`` has the trained weights.

        Args:
            dictionary: The dictionary that the user passed.
        """
        yield dictionary

    def begin_(self, trainee: Any) -> None:
        """Divides the latents of an initialised dictionary, in place. By default it does nothing.

        Args:
            trainee: The dictionary and its training options.
        """
        return

    def write_rows(self, folder: Path, rows: Mapping[str, Tensor]) -> None:
        """Writes the rows of a checkpoint that the ranks hold, to a new folder. There are none in a single slice.

        Args:
            folder: The folder, which all ranks must see.
            rows: Tensors by name, as parts of whole tensors.

        Raises:
            OSError: On all ranks, if one of them can't write.
        """
        assert not rows  # the latents aren't divided

    # Numbers and objects on the host

    def exchange(self, *numbers: int) -> list[tuple[int, ...]]:
        """Returns the numbers of each rank, by rank. It doesn't wait for an accelerator."""
        return [numbers]

    def share(self, value: Value) -> Value:
        """Returns the value of rank 0, which must be picklable."""
        return value

    def gather(self, value: Value) -> list[Value]:
        """Returns the value of each rank, which must be picklable, by rank."""
        return [value]

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set on any rank."""
        return any(row[0] for row in self.exchange(int(flag)))

    def on_main(self, function: Callable[[], Value]) -> Value | None:
        """Calls a function on rank 0, and returns its result there and ``None`` on other ranks.

        Raises:
            Exception: On rank 0, the error of the function. On other ranks, a `RankError` with its message.
        """
        return self._together(function) if self.is_main else self._together(lambda: None)

    def together(self, function: Callable[[], Value]) -> Value:
        """Calls a function that isn't a collective operation on each rank, and returns the rank's result.

        Raises:
            Exception: The error of the function. If it fails on other ranks only, a `RankError` with their message.
        """
        return self._together(function)

    def _together(self, function: Callable[[], Value]) -> Value:
        result: Any = None
        error: Exception | None = None
        try:
            result = function()
        except Exception as found:
            error = found
        if self.n_ranks > 1 and self.any(error is not None):
            texts = self.gather("" if error is None else f"{type(error).__name__}: {error}")
            failed = tuple(rank for rank, text in enumerate(texts) if text)
            if error is None:
                raise RankError(f"Rank {failed[0]} failed: {texts[failed[0]]}", failed)
        if error is not None:
            raise error
        return result

    def total(self, numbers: Sequence[int]) -> int:
        """Returns the sum over the parts, given a number of each rank. Not a collective operation."""
        return sum(numbers) * self.n_parts // self.n_ranks

    # Tensors over the parts of a batch

    def values(self, tensor: Tensor) -> Tensor:
        """Returns the values of all ranks, of all parts and slices, in the order of ranks.

        Args:
            tensor: Values of this rank, ``[n_values]``. The numbers may differ.
        """
        return tensor

    def among_largest(self, values: Tensor, n: int, positions: Callable[[], Tensor]) -> Tensor:
        """Returns which values are among the ``n`` largest of all ranks, ``[n_values]`` booleans. NaN always is.

        On the CPU, the first of equal values in the order of their positions are taken. On other devices the choice
        among equal values is unspecified.

        Args:
            values: Values of this rank, ``[n_values]``, such as its largest pre-activations.
            n: Number of values to choose among all ranks.
            positions: Returns a different integer for each value of all ranks. It may be collective. All ranks call it,
                or none.
        """
        chosen = torch.zeros_like(values, dtype=torch.bool)
        return chosen.index_fill(0, values.topk(min(n, len(values)), sorted=False).indices, True)

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Replaces tensors that must be equal on several ranks by those of the first of these ranks.

        Args:
            tensors: Tensors of the same shapes on each rank.
        """
        return

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the sum of a tensor over the parts, without gradient. It may be queued on an accelerator.

        Args:
            tensor: The part's own sum, such as the number of tokens on which each latent fired.
        """
        return tensor

    def rows(self, tensor: Tensor) -> Tensor:
        """Returns the rows of all parts in the order of the whole batch: row ``j`` is of part ``j % n_parts``.

        If the numbers of rows don't allow this order, such as for whole sequences, the parts follow each other.

        Args:
            tensor: The rows of this part of one batch, ``[n_rows, ...]``. The numbers of rows may differ.
        """
        return tensor

    def exchange_rows(self, tensor: Tensor, n_to: Sequence[int], n_from: Sequence[int]) -> Tensor:
        """Sends rows to the other parts, and returns the received rows in the order of the sending parts.

        Args:
            tensor: Rows in the order of the receiving parts, ``[sum(n_to), ...]``.
            n_to: Number of rows for each part.
            n_from: Number of rows from each part.
        """
        return tensor

    def mean_gradients_(self, parameters: Iterable[Tensor], share: float) -> None:
        """Replaces gradients by their weighted mean over the parts.

        A parameter without a gradient counts as zero if another rank has one. Gradients of parameters that are equal on
        ranks of one part, such as the decoder bias of a dictionary in slices, are made equal again.

        Args:
            parameters: The trained parameters, in the same order on each rank.
            share: This part's share of the rows of the batch. The shares of all parts add up to 1.
        """
        return

    # Tensors over the slices of latents

    def sum_latents(self, tensor: Tensor) -> Tensor:
        """Returns the sum of a tensor over the slices, without gradient: the tensor itself if there is one slice.

        Args:
            tensor: The slice's own sum, such as a number of active latents or a penalty.
        """
        return tensor

    # Checks

    def check_equal(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Raises an error that names the rank if tensors that must be equal on several ranks differ.

        Args:
            tensors: Weights by name.
            step: Number of steps done. A kind may skip the check at most steps.

        Raises:
            RankError: If the bits of a tensor differ.
        """
        return

    def describe(self, dictionary: Any) -> str:
        """Returns a few lines about the division of work, and the memory of each rank. It isn't collective."""
        return "one process"
