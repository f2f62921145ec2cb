"""What a stream and a store have in common: passes of shuffled batches that can be stopped and gone on with."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from sparsedict import checks
from sparsedict.batches import Activations
from sparsedict.data._batches import Batches, RowSource


class ActivationSource(Iterable[Activations], ABC):
    """Activations that are served in batches, pass after pass, each shuffled by a seed in bounded memory.

    Iterating makes one pass, the same each time; the last batch may be short. ``fit`` goes on with further passes.

    Attributes:
        batch_size: Tokens per batch.
        seed: Of all shuffling.
        buffer_size: Tokens among which those of a batch are drawn.
        bytes_per_token: What the activations of one take.
    """

    buffer_size: int
    bytes_per_token: int

    def __init__(self, batch_size: int, seed: int, dtype: torch.dtype | None) -> None:
        self.batch_size: int = checks.at_least("batch_size", batch_size, 1)
        self.seed: int = checks.at_least("seed", seed, 0)
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"`dtype` must be a floating-point type, got {dtype}.")
        self._state: Mapping[str, Any] | None = None
        self._latest: Batches | None = None

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...] | None:
        """Names of the sites; ``None`` for one site without a name."""

    @property
    @abstractmethod
    def n_tokens(self) -> int | None:
        """Tokens that one pass serves; ``None`` where that is known only after a pass."""

    @abstractmethod
    def _rows(self) -> RowSource:
        """Returns the rows of all passes, from the beginning."""

    @property
    def n_batches(self) -> int | None:
        """Batches of one pass, where known."""
        return None if self.n_tokens is None else -(-self.n_tokens // self.batch_size)

    def __iter__(self) -> Iterator[Activations]:
        """Makes the first pass, or goes on after `load_state_dict`."""
        batches = self.batches(repeat=False)
        if self._state is not None:
            batches.load_state_dict(self._state)
            self._state = None
        return batches

    def epoch(self, number: int) -> Batches:
        """Returns pass ``number``: as iterating, which makes pass 0, with a shuffle of its own."""
        batches = self.batches(repeat=False)
        batches.load_state_dict({**batches.state_dict(), "epoch": checks.at_least("number", number, 0)})
        return batches

    def batches(self, *, repeat: bool = True) -> Batches:
        """Returns a new iterator: pass after pass, or one pass only."""
        self._latest = Batches(self._rows(), batch_size=self.batch_size, seed=self.seed, repeat=repeat)
        return self._latest

    def state_dict(self) -> dict[str, Any]:
        """Returns where the iterator that was made last stands: a few integers.

        Activations aren't stored. To go on, those of the buffer that was being served are harvested or read again, in
        the same way, so that the batches that follow are equal bit for bit (for a stream: on the same machine and with
        the same tokens, sites and options).
        """
        return (self._latest or self.batches(repeat=False)).state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next iteration go on from a state.

        Raises:
            ValueError: If the state isn't of such a source, or was saved with another batch size or seed.
        """
        self.batches().load_state_dict(state)
        self._state = dict(state)

    def _checked_buffer(self, size: int | None, usual: int, most: int | None) -> int:
        """Returns how many tokens the buffer has room for.

        Args:
            size: What was asked for; where left out, ``usual`` tokens and at least four batches.
            usual: See ``size``.
            most: Tokens that there are, where known.

        Raises:
            ValueError: If a batch doesn't fit into it, or it doesn't fit into the machine's memory.
        """
        size = None if size is None else checks.at_least("buffer_size", size, 1)
        if size is not None and size < self.batch_size:
            raise ValueError(
                f"`batch_size` must not exceed `buffer_size`, got {self.batch_size} and {size} tokens: a batch is "
                "drawn from the buffer, and mixes well if that holds many batches."
            )
        asked = max(usual, 4 * self.batch_size) if size is None else size
        needed = (asked if most is None else min(asked, most)) * self.bytes_per_token
        memory = _memory()
        if memory is not None and needed > memory:
            name = f"`batch_size` of {self.batch_size:,}" if size is None else f"`buffer_size` of {size:,}"
            raise ValueError(
                f"{name} must leave the buffer within the machine's memory, {memory / 2**30:,.1f} GiB, but "
                f"{asked:,} tokens of {self.bytes_per_token:,} bytes are {needed / 2**30:,.1f} GiB. Take fewer."
            )
        return asked


def _memory() -> int | None:
    """Returns the bytes of this machine's memory, where the system says."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
