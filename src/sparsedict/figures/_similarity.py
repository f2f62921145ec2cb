"""Histograms of the cosines of latents with their nearest neurons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis import LatentTypes, NeuronMatch
from sparsedict.figures._axes import finish, own_axes
from sparsedict.figures._null import draw_null
from sparsedict.figures._stacks import STACKED, Group, draw_stack, live_groups
from sparsedict.figures.palette import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def decoder_similarity(
    match: NeuronMatch, types: LatentTypes | None = None, *, ax: Axes | None = None, n_bins: int = 50
) -> Axes:
    """Draws a histogram of the decoder cosines with the nearest neurons, and of those of random directions.

    Args:
        match: Match of the latents with the neurons.
        types: Types of the latents, for the colours and the threshold.
        ax: Axes to draw on. A new figure by default.
        n_bins: Number of bins.

    Source: figure 2 of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.

    Example:
        >>> import torch, sparsedict as sd
        >>> match = sd.analysis.match_neurons(torch.randn(64, 8), torch.randn(16, 8))
        >>> decoder_similarity(match, sd.analysis.latent_types(match)).get_ylabel()
        'latents, stacked'
    """
    checks.instance("match", match, NeuronMatch, "the result of `match_neurons`")
    checks.instance("types", types, LatentTypes | None, "the result of `latent_types`, or None")
    ax = _draw(match.decoder_cosine, match.null_decoder, types, ax, n_bins)
    if types is not None:
        ax.axvline(types.threshold, color=Palette.NULL, linewidth=0.6, linestyle=":", label="threshold")
    return finish(ax, "decoder cosine with the nearest neuron", STACKED, n_legend_columns=2)


def encoder_similarity(
    match: NeuronMatch, types: LatentTypes | None = None, *, ax: Axes | None = None, n_bins: int = 50
) -> Axes:
    """Draws a histogram of the encoder cosines with the nearest neurons, and of those of random directions.

    Args:
        match: Match of the latents with the neurons.
        types: Types of the latents, for the colours. The types are determined by the *decoder* rows.
        ax: Axes to draw on. A new figure by default.
        n_bins: Number of bins.

    Raises:
        ValueError: If the match contains no encoder cosines.

    Source: figure 3 of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.
    """
    checks.instance("match", match, NeuronMatch, "the result of `match_neurons`")
    if match.encoder_cosine is None or match.null_encoder is None:
        raise ValueError("`match` must contain encoder cosines, got none. Match a dictionary that has an encoder.")
    checks.instance("types", types, LatentTypes | None, "the result of `latent_types`, or None")
    ax = _draw(match.encoder_cosine, match.null_encoder, types, ax, n_bins)
    return finish(ax, "encoder cosine with the nearest neuron", STACKED, n_legend_columns=2)


def _draw(
    cosine: Float[Tensor, " n_latents"],
    null: Float[Tensor, " n_latents"],
    types: LatentTypes | None,
    ax: Axes | None,
    n_bins: int,
) -> Axes:
    n_bins = checks.at_least("n_bins", n_bins, 1)
    ax = own_axes(ax)
    low = min(0.0, float(cosine.min()), float(null.min()))
    edges = np.linspace(low, 1.0, n_bins + 1)
    dead = torch.zeros(len(cosine), dtype=torch.bool, device="cpu")
    if types is not None and types.dead is not None:
        dead = types.dead.cpu()
    draw_stack(ax, cosine, [*live_groups(types, dead), Group("never fired", Palette.DEAD, dead)], edges)
    tallest = float(np.histogram(cosine.detach().cpu().numpy(), edges)[0].max(initial=0))
    draw_null(ax, np.histogram(null.detach().cpu().numpy(), edges)[0].astype(float), edges, tallest)
    ax.set_xlim(low, 1.0)
    return ax
