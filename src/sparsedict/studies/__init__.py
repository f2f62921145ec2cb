"""Studies: whole investigations made of the rooms below, with results to read, save and open in a browser."""

from sparsedict.studies._bench import Bench
from sparsedict.studies._claims import Above, Below, Between, Clause, Judgement, Rule, verdict_of
from sparsedict.studies._estimates import Difference, Estimate, Quantity, Ratio, measured
from sparsedict.studies._folder import CHECKPOINTS, check_folder
from sparsedict.studies._order import Order
from sparsedict.studies._presets import QUICK, REPORT, REPORT_CONTEXT, SKETCH, STANDARD
from sparsedict.studies._recipe import DEMO, Inspection, Recipe
from sparsedict.studies._replicate import replicate
from sparsedict.studies._replication_folder import check_replication
from sparsedict.studies._run_folder import RunFolder
from sparsedict.studies._setting import Setting, Training
from sparsedict.studies._sites_report import write_sites
from sparsedict.studies._study import Compared, Drawing, Finding, Study
from sparsedict.studies._take_apart import take_apart, take_apart_sites
from sparsedict.studies._taken_apart import DictionaryResult, TakenApart
from sparsedict.studies.report import (
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

__all__ = [
    "CHECKPOINTS",
    "DEMO",
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
    "DictionaryResult",
    "Difference",
    "Drawing",
    "EqualSparsity",
    "Estimate",
    "EveryLayer",
    "Finding",
    "FirstLatents",
    "GELUStudent",
    "Inspection",
    "Judgement",
    "L1Sweep",
    "LossByLayer",
    "NeuronSimulators",
    "OneNeuron",
    "Order",
    "Quantity",
    "Ratio",
    "Recipe",
    "ResidualStream",
    "Rule",
    "RunFolder",
    "SameNeuron",
    "Setting",
    "SimulatorsFollowed",
    "SparseDecoders",
    "Study",
    "TakenApart",
    "Training",
    "TwoDictionaries",
    "UnevenInputs",
    "WiderStudents",
    "check_folder",
    "check_replication",
    "measured",
    "replicate",
    "take_apart",
    "take_apart_sites",
    "verdict_of",
    "write_sites",
]
