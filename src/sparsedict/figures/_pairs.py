"""Figures that compare latents with neurons, or latents of two dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis import DictionaryMatch
from sparsedict.figures._axes import SMALL_SIZE, finish, own_axes
from sparsedict.figures._null import draw_null
from sparsedict.figures.palette import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_BINS = 50
NULL = "random directions"
LINES = ("-", "--", "-.", ":")
HATCHES = ("", "////", "....")
"""Patterns of bars, which distinguish series of the same colour."""
MAX_SIMULATORS = 6
"""Largest number of simulators of a neuron with a separate bar. Larger numbers are counted together."""


def cosine_map(
    cosines: Float[Tensor, "n_rows n_columns"],
    *,
    x_label: str = "neuron nearest to this latent's decoder row",
    y_label: str = "latent",
    ax: Axes | None = None,
) -> Axes:
    """Draws cosines of latents with neurons as a heat map: blue below zero, orange above.

    Args:
        cosines: Cosines in [-1, 1], ``[n_rows, n_columns]``.
        x_label: Label of the columns.
        y_label: Label of the rows.
        ax: Axes to draw on. A new figure by default.

    Source: figure 7 of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.
    """
    from matplotlib.colors import LinearSegmentedColormap

    checks.instance("cosines", cosines, Tensor, "a tensor of cosines [n_rows, n_columns]")
    ax = own_axes(ax)
    colours = LinearSegmentedColormap.from_list("signed", [Palette.SPARSE, "#ffffff", Palette.SIMULATORS])
    image = ax.imshow(
        cosines.detach().cpu().numpy(), cmap=colours, vmin=-1, vmax=1, interpolation="nearest", aspect="auto"
    )
    bar = ax.figure.colorbar(image, ax=ax, ticks=[-1, 0, 1])
    bar.ax.tick_params(labelsize=SMALL_SIZE)
    bar.set_label("cosine", fontsize=SMALL_SIZE)
    return finish(ax, x_label, y_label, n_legend_columns=None)


def activation_scatter(
    neuron: Float[Tensor, " n_tokens"],
    latent: Float[Tensor, " n_tokens"],
    *,
    correlation: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws the activations of a latent against those of its neuron, with a point for each token.

    Args:
        neuron: Activations of the neuron, ``[n_tokens]``.
        latent: Activations of the latent on the same tokens, ``[n_tokens]``.
        correlation: Pearson correlation, which is added to the legend.
        ax: Axes to draw on. A new figure by default.

    Raises:
        ValueError: If the numbers of tokens differ.

    Source: figure 8 of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.
    """
    for name, value in (("neuron", neuron), ("latent", latent)):
        checks.instance(name, value, Tensor, "a tensor of activations [n_tokens]")
    if neuron.shape != latent.shape:
        raise ValueError(f"`latent` must have the same {len(neuron)} tokens as `neuron`, got {len(latent)}.")
    ax = own_axes(ax)
    label = (
        f"{len(neuron):,} tokens" if correlation is None else f"{len(neuron):,} tokens, correlation {correlation:.4f}"
    )
    ax.scatter(
        neuron.detach().cpu().numpy(),
        latent.detach().cpu().numpy(),
        s=3,
        alpha=0.4,
        linewidths=0,
        color=Palette.SIMULATORS,
        label=label,
        rasterized=True,
    )
    finish(ax, "the neuron's activation", "the latent's activation")
    for handle in ax.get_legend().legend_handles:  # pyright: ignore[reportOptionalMemberAccess]
        # A single transparent point in the legend would be hard to see.
        handle.set_alpha(1.0)  # pyright: ignore[reportOptionalMemberAccess]
    return ax


def shared_latents(match: DictionaryMatch, names: tuple[str, str], *, ax: Axes | None = None) -> Axes:
    """Draws the cosine of each latent with the nearest latent of another dictionary, and those of random directions.

    Args:
        match: Match of the two dictionaries.
        names: Names of the dictionaries.
        ax: Axes to draw on. A new figure by default.
    """
    checks.instance("match", match, DictionaryMatch, "the result of `match_dictionaries`")
    found = {f"{name} ({len(c):,})": c for name, c in zip(names, (match.cosine_a, match.cosine_b), strict=True)}
    colours = dict(zip(found, (Palette.DISTILLER, Palette.AUTOENCODER), strict=True))
    label = "decoder cosine with the nearest latent of the other"
    return cosine_histograms({**found, NULL: match.null_a}, label, colours=colours, ax=ax)


def cosine_histograms(
    cosines: Mapping[str, Float[Tensor, " _"]],
    x_label: str,
    *,
    colours: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws the densities of several sets of cosines as outlines.

    If the peak of the set ``"random directions"`` is higher than those of the other sets, it is cut off.

    Args:
        cosines: Sets of cosines by name.
        x_label: Label of the horizontal axis.
        colours: Colours of some sets by name.
        ax: Axes to draw on. A new figure by default.
    """
    ax = own_axes(ax)
    edges = np.linspace(min(0.0, *(float(v.min()) for v in cosines.values())), 1.0, N_BINS + 1)
    densities = {name: _density(values, edges) for name, values in cosines.items()}
    n_drawn, tallest = 0, 0.0
    for name, heights in densities.items():
        if name == NULL:
            continue
        colour = (colours or {}).get(name)
        if colour is None:
            colour = Palette.SERIES[n_drawn % len(Palette.SERIES)]
            n_drawn += 1
        # Different line styles distinguish sets that coincide.
        style = LINES[len(ax.patches) % len(LINES)]
        ax.stairs(heights, edges, color=colour, linewidth=1.2, linestyle=style, label=name)
        tallest = max(tallest, float(heights.max()))
    if NULL in densities:
        draw_null(ax, densities[NULL], edges, tallest, NULL)
    ax.set_xlim(edges[0], 1.0)
    return finish(ax, x_label, "density", n_legend_columns=2)


def _density(values: Float[Tensor, " _"], edges: np.ndarray) -> np.ndarray:
    """Returns the density in each bin. Its integral is the share of values within the edges."""
    counts, _ = np.histogram(values.detach().cpu().numpy(), edges)
    return counts / (max(len(values), 1) * np.diff(edges))


def cluster_sizes(sizes: dict[str, dict[int, int]], *, ax: Axes | None = None) -> Axes:
    """Draws the number of neurons by their number of simulators, with a series of bars for each dictionary.

    Args:
        sizes: Number of neurons by dictionary and number of simulators.
        ax: Axes to draw on. A new figure by default.

    Source: figure 11 and appendix B of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.
    """
    what = "a mapping of names of dictionaries to numbers of neurons by number of simulators"
    checks.mapping("sizes", sizes, Mapping, what, empty=False)
    ax = own_axes(ax)
    largest = max(size for of in sizes.values() for size in of)
    shown = range(min(largest, MAX_SIMULATORS) + 1)
    width = 0.8 / len(sizes)
    for index, (name, of) in enumerate(sizes.items()):
        heights = [of.get(size, 0) for size in shown[:-1]]
        heights.append(sum(n for size, n in of.items() if size >= shown[-1]))
        places = [size + (index - (len(sizes) - 1) / 2) * width for size in shown]
        turn, colour = divmod(index, len(Palette.SERIES))
        colour, hatch = Palette.SERIES[colour], HATCHES[turn % len(HATCHES)]
        ax.bar(places, heights, width, linewidth=0, label=name, color=colour, hatch=hatch, edgecolor="white")
    names = [str(size) for size in shown]
    if largest > MAX_SIMULATORS:
        names[-1] += "+"
    ax.set_xticks(list(shown), names)
    return finish(ax, "simulators of one neuron", "neurons", n_legend_columns=2)
