"""The studies of the report's results and questions, one file for each, in the order of the page."""

from ..study import Study
from .equal_sparsity import EqualSparsity
from .every_layer import EveryLayer
from .first_latents import FirstLatents
from .followed import SimulatorsFollowed
from .gelu_student import GELUStudent
from .l1_sweep import L1Sweep
from .loss_by_layer import LossByLayer
from .one_neuron import OneNeuron
from .residual_stream import ResidualStream
from .rule_grades import RuleGrades
from .same_neuron import SameNeuron
from .several_layers import SeveralLayers
from .simulators import NeuronSimulators
from .sparse_decoders import SparseDecoders
from .two_dictionaries import TwoDictionaries
from .uneven_inputs import UnevenInputs
from .wider_students import WiderStudents

STUDIES: tuple[Study, ...] = (
    NeuronSimulators(),
    L1Sweep(),
    FirstLatents(),
    RuleGrades(),
    SameNeuron(),
    OneNeuron(),
    UnevenInputs(),
    GELUStudent(),
    LossByLayer(),
    ResidualStream(),
    TwoDictionaries(),
    SimulatorsFollowed(),
    WiderStudents(),
    SparseDecoders(),
    EqualSparsity(),
    EveryLayer(),
    SeveralLayers(),
)
"""All studies, in the order of the report."""

__all__ = [
    "STUDIES",
    "EqualSparsity",
    "EveryLayer",
    "FirstLatents",
    "GELUStudent",
    "L1Sweep",
    "LossByLayer",
    "NeuronSimulators",
    "OneNeuron",
    "ResidualStream",
    "RuleGrades",
    "SameNeuron",
    "SeveralLayers",
    "SimulatorsFollowed",
    "SparseDecoders",
    "TwoDictionaries",
    "UnevenInputs",
    "WiderStudents",
]
