"""Figures: functions that take results and, if wanted, matplotlib Axes, draw on them and return them.

Without Axes a figure of one column's width (3.3 inches) is made; matplotlib's global state is never touched, so
nothing has to be closed. A notebook shows the returned Axes as a picture; `save` writes it to a file.
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
    "decoder_similarity",
    "encoder_similarity",
    "firing_frequency",
    "points",
    "save",
    "shared_latents",
    "training_curves",
    "type_shares",
]
