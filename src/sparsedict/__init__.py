"""Take a transformer's MLP apart into sparse, readable units."""

from sparsedict import (
    activations,
    analysis,
    data,
    dictionaries,
    formats,
    kernels,
    losses,
    metrics,
    norms,
    penalties,
    sites,
    training,
    zoo,
)
from sparsedict.activations import (
    GELU,
    AbsTopK,
    Activation,
    BatchTopK,
    Gated,
    GroupMax,
    JumpReLU,
    ReLU,
    SiLU,
    TopK,
)
from sparsedict.analysis import Evaluation, evaluate
from sparsedict.data import ActivationStream
from sparsedict.dictionaries import Dictionary, SparseAutoencoder, SparseDistiller
from sparsedict.forward_pass import ForwardPass
from sparsedict.interventions import Ablation, Clamp, Steer
from sparsedict.latents import SparseLatents, Support
from sparsedict.loading import load
from sparsedict.losses import Loss, SquaredError
from sparsedict.norms import DecoderNorm, Free, InputLayerNorm, InputNorm, InputRMSNorm, InputScale, MaxNorm, UnitNorm
from sparsedict.penalties import L0, L1, AuxK, Lp, NormWeighted, Penalty, Sqrt, TargetL0, WarmUp
from sparsedict.sites import Neurons, Site
from sparsedict.training import (
    Cosine,
    History,
    Linear,
    NonFiniteLossError,
    Resample,
    Schedule,
    Trainee,
    Upkeep,
    fit,
    fit_many,
)
from sparsedict.types import ActivationBatch, DictionaryOutput, SiteActivations

__version__ = "0.1.0"

__all__ = [
    "Ablation",
    "AbsTopK",
    "Activation",
    "ActivationBatch",
    "ActivationStream",
    "AuxK",
    "BatchTopK",
    "Clamp",
    "Cosine",
    "DecoderNorm",
    "Dictionary",
    "DictionaryOutput",
    "Evaluation",
    "ForwardPass",
    "Free",
    "GELU",
    "Gated",
    "GroupMax",
    "History",
    "InputLayerNorm",
    "InputNorm",
    "InputRMSNorm",
    "InputScale",
    "JumpReLU",
    "L0",
    "L1",
    "Linear",
    "Loss",
    "Lp",
    "MaxNorm",
    "Neurons",
    "NonFiniteLossError",
    "NormWeighted",
    "Penalty",
    "ReLU",
    "Resample",
    "Schedule",
    "SiLU",
    "Site",
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
    "Trainee",
    "UnitNorm",
    "Upkeep",
    "WarmUp",
    "activations",
    "analysis",
    "data",
    "dictionaries",
    "evaluate",
    "fit",
    "fit_many",
    "formats",
    "kernels",
    "load",
    "losses",
    "metrics",
    "norms",
    "penalties",
    "sites",
    "training",
    "zoo",
]
