"""Penalties, the terms of the training loss that make latents sparse."""

from sparsedict.penalties._auxk import AuxK
from sparsedict.penalties._counts import L0, TargetL0
from sparsedict.penalties._penalty import LatentPenalty, Penalty
from sparsedict.penalties._powers import L1, Lp, Sqrt
from sparsedict.penalties._wrappers import NormWeighted, PointNormWeighted, WarmUp

__all__ = [
    "AuxK",
    "L0",
    "L1",
    "LatentPenalty",
    "Lp",
    "NormWeighted",
    "Penalty",
    "PointNormWeighted",
    "Sqrt",
    "TargetL0",
    "WarmUp",
]
