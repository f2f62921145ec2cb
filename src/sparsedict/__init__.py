"""Take a transformer's MLP apart into sparse, readable units."""

from sparsedict import activations, dictionaries, kernels, losses, norms, penalties
from sparsedict.activations import GELU, Activation, BatchTopK, JumpReLU, ReLU, SiLU, TopK
from sparsedict.dictionaries import Dictionary, SparseAutoencoder, SparseDistiller, load
from sparsedict.forward_pass import ForwardPass
from sparsedict.interventions import Ablation, Clamp, Steer
from sparsedict.latents import SparseLatents, Support
from sparsedict.losses import Loss, SquaredError
from sparsedict.norms import DecoderNorm, Free, MaxNorm, UnitNorm
from sparsedict.penalties import L0, L1, AuxK, Lp, NormWeighted, Penalty, Sqrt, TargetL0, WarmUp
from sparsedict.types import ActivationBatch, DictionaryOutput, SiteActivations

__version__ = "0.1.0"

__all__ = [
    "Ablation",
    "Activation",
    "ActivationBatch",
    "AuxK",
    "BatchTopK",
    "Clamp",
    "DecoderNorm",
    "Dictionary",
    "DictionaryOutput",
    "ForwardPass",
    "Free",
    "GELU",
    "JumpReLU",
    "L0",
    "L1",
    "Loss",
    "Lp",
    "MaxNorm",
    "NormWeighted",
    "Penalty",
    "ReLU",
    "SiLU",
    "SiteActivations",
    "SparseAutoencoder",
    "SparseDistiller",
    "SparseLatents",
    "Sqrt",
    "SquaredError",
    "Steer",
    "Support",
    "TargetL0",
    "TopK",
    "UnitNorm",
    "WarmUp",
    "activations",
    "dictionaries",
    "kernels",
    "load",
    "losses",
    "norms",
    "penalties",
]
