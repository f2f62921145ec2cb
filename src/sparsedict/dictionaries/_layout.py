"""Which layers the latents of a cross-layer dictionary write to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from sparsedict import checks


class DecoderLayout(ABC):
    """Which layers the latents of each layer write to, and whether they have a decoder row for each of them.

    An immutable value: make it a frozen dataclass, and it is saved by its arguments.
    """

    is_tied: ClassVar[bool] = False
    """Whether a latent has one decoder row, which it writes to all of its layers."""

    @abstractmethod
    def n_targets(self, source: int, n_layers: int) -> int:
        """Returns how many layers the latents of a layer write to: the layer itself and those that follow it.

        Args:
            source: Index of the layer that the latents read.
            n_layers: Number of layers.
        """


@dataclass(frozen=True)
class LaterLayers(DecoderLayout):
    """Latents write to their own layer and to all later ones.

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

    With a reach of 0 each layer has a sparse distiller of its own.

    Args:
        reach: Layers beyond a latent's own that it may write to.

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
    """A latent writes one decoder row to all of its layers, instead of a row for each of them.

    The outputs of these layers must be equally wide.

    Args:
        layout: Which layers latents write to.
    """

    layout: DecoderLayout = LaterLayers()

    is_tied = True

    def __post_init__(self) -> None:
        if not isinstance(self.layout, DecoderLayout) or self.layout.is_tied:
            raise TypeError(f"`layout` must be a DecoderLayout such as `sd.LaterLayers()`, got {self.layout!r}.")

    def n_targets(self, source: int, n_layers: int) -> int:
        return self.layout.n_targets(source, n_layers)
