"""Constraints on the norms of decoder rows."""

from sparsedict.norms._norm import DecoderNorm, Free, MaxNorm, UnitNorm

__all__ = ["DecoderNorm", "Free", "MaxNorm", "UnitNorm"]
