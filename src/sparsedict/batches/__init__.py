"""The activations of a batch of tokens, keyed by point of the model."""

from sparsedict.batches._activations import ActivationBatch, Activations
from sparsedict.batches._points import (
    ROLES,
    UNNAMED,
    MissingPointError,
    Points,
    aliases,
    lookup,
    missing_point,
    names_of,
    point_name,
    sites_of,
)
from sparsedict.batches._tensors import PER_TOKEN, identity

__all__ = [
    "PER_TOKEN",
    "ROLES",
    "UNNAMED",
    "ActivationBatch",
    "Activations",
    "MissingPointError",
    "Points",
    "aliases",
    "identity",
    "lookup",
    "missing_point",
    "names_of",
    "point_name",
    "sites_of",
]
