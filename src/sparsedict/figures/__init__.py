"""Matplotlib figures of results. Each function draws on the given Axes, or on a new figure, and returns the Axes.

A new figure is one column wide (3.3 inches). The functions don't use the global state of matplotlib, so figures needn't
be closed. A notebook displays the returned Axes as an image. `save` writes a figure to files.
"""

from sparsedict.figures._curves import Curve, ablated_errors, curves, points, type_shares
from sparsedict.figures._firing import firing_frequency
from sparsedict.figures._pairs import (
    activation_scatter,
    cluster_sizes,
    cosine_histograms,
    cosine_map,
    shared_latents,
)
from sparsedict.figures._save import save
from sparsedict.figures._shares import decoder_shares
from sparsedict.figures._similarity import decoder_similarity, encoder_similarity
from sparsedict.figures._training import training_curves
from sparsedict.figures.palette import Palette

__all__ = [
    "Curve",
    "Palette",
    "ablated_errors",
    "activation_scatter",
    "cluster_sizes",
    "cosine_histograms",
    "cosine_map",
    "curves",
    "decoder_shares",
    "decoder_similarity",
    "encoder_similarity",
    "firing_frequency",
    "points",
    "save",
    "shared_latents",
    "training_curves",
    "type_shares",
]
