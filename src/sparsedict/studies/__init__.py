"""Studies: complete experiments on the MLPs of a model, whose results can be printed, saved and viewed in a browser."""

from sparsedict.studies._decompose import decompose, decompose_sites
from sparsedict.studies._decomposition import Decomposition
from sparsedict.studies._dictionary_result import DictionaryResult
from sparsedict.studies._folder import CHECKPOINTS, check_folder
from sparsedict.studies._joint import decompose_jointly
from sparsedict.studies._joint_decomposition import JointDecomposition, JointResult
from sparsedict.studies._kinds import BOTH, KINDS, Kind
from sparsedict.studies._recipe import DEMO, DEMO_BATCH_SIZE, Inspection, recipes, recommended_options
from sparsedict.studies._run_folder import RunFolder
from sparsedict.studies._run_settings import environment
from sparsedict.studies._sites_report import write_sites

__all__ = [
    "BOTH",
    "CHECKPOINTS",
    "DEMO",
    "DEMO_BATCH_SIZE",
    "DictionaryResult",
    "Inspection",
    "JointDecomposition",
    "JointResult",
    "KINDS",
    "Kind",
    "RunFolder",
    "Decomposition",
    "check_folder",
    "environment",
    "recipes",
    "recommended_options",
    "decompose",
    "decompose_jointly",
    "decompose_sites",
    "write_sites",
]
