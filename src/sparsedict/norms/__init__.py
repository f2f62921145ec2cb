"""Norms: constraints on those of decoder rows, and what is done about those of the input."""

from sparsedict.norms._input_norm import InputLayerNorm, InputNorm, InputRMSNorm, InputScale
from sparsedict.norms._norm import DecoderNorm, Free, MaxNorm, UnitNorm

__all__ = [
    "DecoderNorm",
    "Free",
    "InputLayerNorm",
    "InputNorm",
    "InputRMSNorm",
    "InputScale",
    "MaxNorm",
    "UnitNorm",
]
