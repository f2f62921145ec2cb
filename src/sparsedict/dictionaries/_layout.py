"""Decoder layouts of cross-layer dictionaries: the layers that latents write to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from sparsedict import checks


class DecoderLayout(ABC):
    """Base class of layouts, which define the target layers of latents and whether their decoder rows are tied.

    Layouts must be frozen dataclasses. They are saved by their arguments.
    """

    is_tied: ClassVar[bool] = False
    """Whether a latent has one decoder row for all of its target layers."""

    @abstractmethod
    def n_targets(self, source: int, n_layers: int) -> int:
        """Returns the number of consecutive layers that the latents of a layer write to, starting with their own.

        Args:
            source: Index of the layer that the latents read.
            n_layers: Number of layers.
        """


@dataclass(frozen=True)
class LaterLayers(DecoderLayout):
    """Latents write to their own layer and to all later layers.

    Source: Ameisen et al., "Circuit Tracing: Revealing Computational Graphs in Language Models", 2025; Lindsey et al.,
    "Sparse Crosscoders for Cross-Layer Features and Model Diffing", 2024.

    Example:
        >>> [LaterLayers().n_targets(source, 3) for source in range(3)]
        [3, 2, 1]
    """

    def n_targets(self, source: int, n_layers: int) -> int:
        return n_layers - source


@dataclass(frozen=True)
class NextLayers(DecoderLayout):
    """Latents write to their own layer and to the next ``reach`` layers.

    With a reach of 0, the layers are independent sparse distillers.

    Args:
        reach: Number of target layers after a latent's own layer.

    Example:
        >>> [NextLayers(1).n_targets(source, 3) for source in range(3)]
        [2, 2, 1]
    """

    reach: int

    def __post_init__(self) -> None:
        checks.set_at_least(self, "reach", 0)

    def n_targets(self, source: int, n_layers: int) -> int:
        return min(self.reach + 1, n_layers - source)


@dataclass(frozen=True)
class TiedDecoders(DecoderLayout):
    """Latents write the same decoder row to all of their target layers.

    The outputs of these layers must have the same width.

    Args:
        layout: Layout that defines the target layers.
    """

    layout: DecoderLayout = LaterLayers()

    is_tied = True

    def __post_init__(self) -> None:
        if not isinstance(self.layout, DecoderLayout) or self.layout.is_tied:
            raise TypeError(f"`layout` must be a DecoderLayout such as `sd.LaterLayers()`, got {self.layout!r}.")

    def n_targets(self, source: int, n_layers: int) -> int:
        return self.layout.n_targets(source, n_layers)
