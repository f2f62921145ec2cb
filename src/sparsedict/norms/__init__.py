"""Constraints on the norms of decoder rows, and normalisation of inputs."""

from sparsedict.norms._input_norm import InputLayerNorm, InputNorm, InputRMSNorm, InputScale
from sparsedict.norms._measured_norm import InputCentre, InputStandardise
from sparsedict.norms._norm import DecoderNorm, Free, MaxNorm, UnitNorm
from sparsedict.norms._per_point import PerPoint

__all__ = [
    "DecoderNorm",
    "Free",
    "InputCentre",
    "InputLayerNorm",
    "InputNorm",
    "InputRMSNorm",
    "InputScale",
    "InputStandardise",
    "MaxNorm",
    "PerPoint",
    "UnitNorm",
]
