"""`Truth`, the interface of synthetic data with known features."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sparsedict.batches import Activations


@runtime_checkable
class Truth(Protocol):
    """Synthetic data with known features.

    Attributes:
        points: Names of the points of its activations.
    """

    @property
    def points(self) -> tuple[str, ...]: ...

    def draw(self, n_tokens: int, generator: torch.Generator) -> tuple[Activations, Tensor]:
        """Returns activations and the strengths of the features, with the random numbers of a generator."""
        ...

    def sample(self, n_tokens: int, seed: int = 0) -> tuple[Activations, Tensor]:
        """Returns activations and the strengths of the features.

        Args:
            n_tokens: Number of rows.
            seed: Seed of the rows.
        """
        ...
