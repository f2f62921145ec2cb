"""`Task`, one comparison, and `Trained`, the result of a contender."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from benchmarks.quality._data import Data, Source

Kind = Literal["autoencoder", "transcoder"]


@dataclass(frozen=True)
class Task:
    """A dictionary to train: kind, width, number of active latents and number of tokens.

    Args:
        kind: Autoencoder of the MLP's output, or transcoder.
        n_latents: Number of latents.
        k: Number of active latents per token, on average for activations without a fixed number.
        n_tokens: Number of training tokens.
        seed: Seed of the initial weights and the order of the tokens.
        lr_factor: The learning rate, relative to that of the contender.
        batch_size: Tokens per step, for contenders without a batch size of their own.
    """

    kind: Kind
    n_latents: int
    k: int
    n_tokens: int
    seed: int
    lr_factor: float = 1.0
    batch_size: int = 1024

    @property
    def n_steps(self) -> int:
        return -(-self.n_tokens // self.batch_size)


@dataclass(frozen=True)
class Trained:
    """A trained dictionary in the units of the stored activations.

    Attributes:
        encode: From activations ``[n_tokens, d_in]`` to dense latents ``[n_tokens, n_latents]``.
        decode: From latents and inputs to activations ``[n_tokens, d_out]``.
        decoder: Decoder rows, ``[n_latents, d_out]``.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor, Tensor], Tensor]
    decoder: Tensor


class Contender(Protocol):
    """A recipe of a library. Each is one object in a module of ``benchmarks/quality/contenders``."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Names of the modules that the contender imports."""
        ...

    def can_train(self, kind: Kind, source: Source) -> bool:
        """Returns whether the contender can train dictionaries of this kind on activations of this source."""
        ...

    def train(self, task: Task, data: Data) -> Trained:
        """Trains a dictionary on the stored activations. Only this function is timed."""
        ...
