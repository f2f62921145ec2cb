"""Constraints on the norms of decoder rows, and normalisation of inputs."""

from sparsedict.norms._input_norm import InputLayerNorm, InputNorm, InputRMSNorm, InputScale
from sparsedict.norms._norm import DecoderNorm, Free, MaxNorm, UnitNorm
from sparsedict.norms._per_point import PerPoint

__all__ = [
    "DecoderNorm",
    "Free",
    "InputLayerNorm",
    "InputNorm",
    "InputRMSNorm",
    "InputScale",
    "MaxNorm",
    "PerPoint",
    "UnitNorm",
]
