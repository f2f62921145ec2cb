"""Histograms of latents stacked by type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from sparsedict.analysis import LatentTypes
from sparsedict.figures.palette import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes


STACKED = "latents, stacked"
"""Axis label of stacked bars."""


@dataclass(frozen=True, eq=False)
class Group:
    """The latents of one type.

    Attributes:
        name: Name in the legend.
        colour: Colour in the palette.
        mask: Mask of the latents, ``[n_latents]``.
    """

    name: str
    colour: str
    mask: Bool[Tensor, " n_latents"]

    @property
    def label(self) -> str:
        return f"{self.name} ({int(self.mask.sum()):,})"


def live_groups(types: LatentTypes | None, dead: Bool[Tensor, " n_latents"]) -> list[Group]:
    """Returns groups of the latents that aren't dead, by type.

    Args:
        types: Types of the latents, or ``None`` if they are unknown.
        dead: Mask of dead latents, which are in no group. Latents that are dead only in ``types`` are a separate group.

    Raises:
        ValueError: If ``types`` has another number of latents.
    """
    if types is None:
        return [Group("latents", Palette.LATENTS, ~dead)]
    if types.n_latents != len(dead):
        raise ValueError(f"`types` must have the same {len(dead)} latents, got {types.n_latents}.")
    groups = [
        Group("simulators", Palette.SIMULATORS, types.simulators.cpu() & ~dead),
        Group("sparse latents", Palette.SPARSE, types.sparse.cpu() & ~dead),
    ]
    if types.dead is not None:
        groups.append(Group("never fired on other tokens", Palette.DEAD, types.dead.cpu() & ~dead))
    return groups


def draw_stack(ax: Axes, values: Float[Tensor, " n_latents"], parts: list[Group], edges: np.ndarray) -> None:
    """Draws a stacked histogram by group. Empty groups are left out."""
    values = values.detach().cpu()
    shown = [part for part in parts if bool(part.mask.any())]
    if not shown:
        return
    below = np.zeros(len(edges) - 1)
    for part in shown:
        counts, _ = np.histogram(values[part.mask].numpy(), edges)
        # One outline for each group. A rectangle for each bar takes ten times as long.
        ax.stairs(below + counts, edges, baseline=below, fill=True, color=part.colour, label=part.label)
        below = below + counts
