"""Sparse latents of a batch: stored entries, their values, and both with pre-activations."""

from sparsedict.latents._encoding import Encoding, per_entry
from sparsedict.latents._sparse_latents import SparseLatents, fires, firing_counts
from sparsedict.latents._support import ResultMemory, Support, TransposedSupport

__all__ = [
    "Encoding",
    "ResultMemory",
    "SparseLatents",
    "Support",
    "TransposedSupport",
    "fires",
    "firing_counts",
    "per_entry",
]
