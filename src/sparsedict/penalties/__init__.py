"""Penalties, the terms of the training loss that make latents sparse."""

from sparsedict.penalties._annealed_lp import AnnealedLp
from sparsedict.penalties._auxk import AuxK
from sparsedict.penalties._counts import L0, TargetL0
from sparsedict.penalties._frequency import Frequency
from sparsedict.penalties._penalty import LatentPenalty, Penalty
from sparsedict.penalties._powers import L1, Lp, Sqrt
from sparsedict.penalties._pre_activation import PreActivation
from sparsedict.penalties._tanh import Tanh
from sparsedict.penalties._wrappers import NormWeighted, PointNormWeighted, Relative, WarmUp

__all__ = [
    "AnnealedLp",
    "AuxK",
    "Frequency",
    "L0",
    "L1",
    "LatentPenalty",
    "Lp",
    "NormWeighted",
    "Penalty",
    "PointNormWeighted",
    "PreActivation",
    "Relative",
    "Sqrt",
    "Tanh",
    "TargetL0",
    "WarmUp",
]
