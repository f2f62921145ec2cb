"""The replication of the report that the library began with, written with the public API of `sparsedict` alone.

``python -m examples.report --out FOLDER`` runs it; `replicate` is the same from Python.
"""

from .bench import Bench
from .claims import Above, Below, Between, Clause, Judgement, Rule, verdict_of
from .estimates import Difference, Estimate, Quantity, Ratio, measured
from .folder import check_replication
from .order import Order
from .presets import QUICK, REPORT, REPORT_CONTEXT, SKETCH, STANDARD, sketch_bench
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
    SameNeuron,
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
    "Bench",
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
    "LossByLayer",
    "NeuronSimulators",
    "OneNeuron",
    "Order",
    "Quantity",
    "Ratio",
    "ResidualStream",
    "Rule",
    "SameNeuron",
    "Setting",
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
    "sketch_bench",
]
