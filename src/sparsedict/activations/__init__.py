"""Activation functions, from pre-activations to latents."""

from sparsedict.activations._activation import Activation, State
from sparsedict.activations._gated import Gated
from sparsedict.activations._group_max import GroupMax
from sparsedict.activations._jumprelu import JumpReLU
from sparsedict.activations._per_layer import PerLayer
from sparsedict.activations._relu import ReLU
from sparsedict.activations._smooth import GELU, SiLU
from sparsedict.activations._topk import AbsTopK, BatchTopK, TopK

__all__ = [
    "AbsTopK",
    "Activation",
    "BatchTopK",
    "GELU",
    "Gated",
    "GroupMax",
    "JumpReLU",
    "PerLayer",
    "ReLU",
    "SiLU",
    "State",
    "TopK",
]
