"""The colours of all figures and pages."""

from __future__ import annotations

from typing import Final


class Palette:
    """Colours that are distinguishable with common forms of colour blindness, on white and in grey.

    Source: Okabe and Ito, "Color Universal Design", 2008.
    """

    SIMULATORS: Final = "#D55E00"
    SPARSE: Final = "#0072B2"
    DEAD: Final = "#A6A6A6"
    LATENTS: Final = "#56708A"
    """Latents of unknown type."""
    NULL: Final = "#222222"
    """Null distributions."""
    DISTILLER: Final = "#009E73"
    AUTOENCODER: Final = "#CC79A7"
    DECODER: Final = "#E69F00"
    ENCODER: Final = "#56B4E9"
    SERIES: Final = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
    """Series other than types of latents, such as dictionaries, in this order."""
