"""The replication of the report "Sparse MLP Distillation", written with the public API of `sparsedict` only.

``python -m examples.report --out FOLDER`` runs the replication. `replicate` runs it from Python.
"""

from .claims import Above, Below, Between, Clause, Judgement, Rule, verdict_of
from .dictionary_spec import DictionarySpec
from .estimates import Difference, Estimate, Quantity, Ratio, measured
from .experiment import Experiment
from .folder import check_replication
from .layers_spec import LayersSpec
from .presets import QUICK, REPORT, REPORT_CONTEXT, SKETCH, STANDARD, sketch_experiment
from .replication import replicate
from .setting import Setting, Training
from .studies import (
    STUDIES,
    EqualSparsity,
    EveryLayer,
    FirstLatents,
    GELUStudent,
    L1Sweep,
    LossByLayer,
    NeuronSimulators,
    OneNeuron,
    ResidualStream,
    RuleGrades,
    SameNeuron,
    SeveralLayers,
    SimulatorsFollowed,
    SparseDecoders,
    TwoDictionaries,
    UnevenInputs,
    WiderStudents,
)
from .study import Compared, Drawing, Finding, Study

__all__ = [
    "QUICK",
    "REPORT",
    "REPORT_CONTEXT",
    "SKETCH",
    "STANDARD",
    "STUDIES",
    "Above",
    "Below",
    "Experiment",
    "Between",
    "Clause",
    "Compared",
    "Difference",
    "Drawing",
    "EqualSparsity",
    "Estimate",
    "EveryLayer",
    "Finding",
    "FirstLatents",
    "GELUStudent",
    "Judgement",
    "L1Sweep",
    "LayersSpec",
    "LossByLayer",
    "NeuronSimulators",
    "OneNeuron",
    "DictionarySpec",
    "Quantity",
    "Ratio",
    "ResidualStream",
    "Rule",
    "RuleGrades",
    "SameNeuron",
    "Setting",
    "SeveralLayers",
    "SimulatorsFollowed",
    "SparseDecoders",
    "Study",
    "Training",
    "TwoDictionaries",
    "UnevenInputs",
    "WiderStudents",
    "check_replication",
    "measured",
    "replicate",
    "verdict_of",
    "sketch_experiment",
]
