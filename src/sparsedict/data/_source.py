"""`ActivationSource`, the base class of streams and stores: resumable passes of shuffled batches."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from sparsedict import checks
from sparsedict.batches import Activations
from sparsedict.data._batches import Batches
from sparsedict.data._row_source import RowSource
from sparsedict.parallel import Alone, Parallel

ALONE = Alone()


class ActivationSource(Iterable[Activations], ABC):
    """Batches of activations in passes that are shuffled by a seed in bounded memory.

    Iterating makes one pass, which is the same each time. The last batch may be short. ``fit`` makes further passes.

    Attributes:
        batch_size: Tokens per batch.
        seed: Seed of the shuffling.
        buffer_size: Number of tokens in the buffer from which a batch is drawn.
        bytes_per_token: Size of the activations of one token, in bytes.
    """

    buffer_size: int
    bytes_per_token: int

    def __init__(self, batch_size: int, seed: int, dtype: torch.dtype | None) -> None:
        self.batch_size: int = checks.at_least("batch_size", batch_size, 1)
        self.seed: int = checks.at_least("seed", seed, 0)
        checks.floating_dtype("dtype", dtype)
        self._state: Mapping[str, Any] | None = None
        self._latest: Batches | None = None

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...] | None:
        """Names of the sites; ``None`` for one site without a name."""

    @property
    @abstractmethod
    def n_tokens(self) -> int | None:
        """Number of tokens of one pass; ``None`` if unknown before a pass."""

    @abstractmethod
    def _rows(self) -> RowSource:
        """Returns a source of the rows of all passes."""

    @property
    def n_batches(self) -> int | None:
        """Number of batches of one pass; ``None`` if unknown."""
        return None if self.n_tokens is None else -(-self.n_tokens // self.batch_size)

    def __iter__(self) -> Iterator[Activations]:
        """Iterates over the first pass, or resumes after `load_state_dict`."""
        batches = self.batches(repeat=False)
        if self._state is not None:
            batches.load_state_dict(self._state)
            self._state = None
        return batches

    def epoch(self, number: int) -> Batches:
        """Returns the batches of pass ``number``, which has its own shuffle. Iterating makes pass 0."""
        batches = self.batches(repeat=False)
        batches.load_state_dict({**batches.state_dict(), "epoch": checks.at_least("number", number, 0)})
        return batches

    def batches(self, *, repeat: bool = True, parallel: Parallel = ALONE) -> Batches:
        """Returns a new iterator over repeated passes, or over a single pass.

        Args:
            repeat: Whether to make further passes.
            parallel: The ranks of a run. Each receives its part of every batch.
        """
        options: dict[str, Any] = {"batch_size": self.batch_size, "seed": self.seed, "repeat": repeat}
        self._latest = Batches(self._rows(), parallel=parallel, **options)
        return self._latest

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the most recent iterator, as a few integers.

        The state contains no activations. To resume, the activations in the buffer are computed or read again in the
        same way, so that the following batches are bit-identical (for a stream: on the same machine and with the same
        tokens, sites and options).
        """
        return (self._latest or self.batches(repeat=False)).state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next iteration resume from a state.

        Raises:
            ValueError: If the state isn't from such a source, or was saved with another batch size or seed.
        """
        self.batches().load_state_dict(state)
        self._state = dict(state)

    def _checked_buffer(self, size: int | None, default: int, total: int | None) -> int:
        """Returns the capacity of the buffer in tokens.

        Args:
            size: Requested capacity. By default it is ``default`` tokens, and at least four batches.
            default: See ``size``.
            total: Total number of tokens, if known.

        Raises:
            ValueError: If a batch doesn't fit into the buffer, or the buffer doesn't fit into the machine's memory.
        """
        size = None if size is None else checks.at_least("buffer_size", size, 1)
        if size is not None and size < self.batch_size:
            raise ValueError(
                f"`batch_size` must not exceed `buffer_size`, got {self.batch_size} and {size} tokens. A batch is "
                "drawn from the buffer, which should be much larger."
            )
        asked = max(default, 4 * self.batch_size) if size is None else size
        needed = (asked if total is None else min(asked, total)) * self.bytes_per_token
        memory = _memory()
        if memory is not None and needed > memory:
            name = f"`batch_size` of {self.batch_size:,}" if size is None else f"`buffer_size` of {size:,}"
            raise ValueError(
                f"{name} must be small enough for the machine's memory, {memory / 2**30:,.1f} GiB, but "
                f"{asked:,} tokens of {self.bytes_per_token:,} bytes are {needed / 2**30:,.1f} GiB. Use fewer tokens."
            )
        return asked


def _memory() -> int | None:
    """Returns the size of this machine's memory in bytes; ``None`` if unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
