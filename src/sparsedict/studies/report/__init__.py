"""The report's results and questions, one file each; the page shows them in this order."""

from sparsedict.studies._study import Study
from sparsedict.studies.report._equal_sparsity import EqualSparsity
from sparsedict.studies.report._every_layer import EveryLayer
from sparsedict.studies.report._first_latents import FirstLatents
from sparsedict.studies.report._followed import SimulatorsFollowed
from sparsedict.studies.report._gelu_student import GELUStudent
from sparsedict.studies.report._l1_sweep import L1Sweep
from sparsedict.studies.report._loss_by_layer import LossByLayer
from sparsedict.studies.report._one_neuron import OneNeuron
from sparsedict.studies.report._residual_stream import ResidualStream
from sparsedict.studies.report._same_neuron import SameNeuron
from sparsedict.studies.report._simulators import NeuronSimulators
from sparsedict.studies.report._sparse_decoders import SparseDecoders
from sparsedict.studies.report._two_dictionaries import TwoDictionaries
from sparsedict.studies.report._uneven_inputs import UnevenInputs
from sparsedict.studies.report._wider_students import WiderStudents

STUDIES: tuple[Study, ...] = (
    NeuronSimulators(),
    L1Sweep(),
    FirstLatents(),
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
)
"""All of them, in the order of the report."""

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
    "SameNeuron",
    "SimulatorsFollowed",
    "SparseDecoders",
    "TwoDictionaries",
    "UnevenInputs",
    "WiderStudents",
]
