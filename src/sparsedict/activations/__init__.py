"""Activations: pre-activations -> latents."""

from sparsedict.activations._activation import Activation, State
from sparsedict.activations._jumprelu import JumpReLU
from sparsedict.activations._relu import ReLU
from sparsedict.activations._smooth import GELU, SiLU
from sparsedict.activations._topk import BatchTopK, TopK

__all__ = ["Activation", "BatchTopK", "GELU", "JumpReLU", "ReLU", "SiLU", "State", "TopK"]
