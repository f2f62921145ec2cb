"""Studies: whole investigations made of the rooms below, with results to read, save and open in a browser."""

from sparsedict.studies._dictionary_result import DictionaryResult
from sparsedict.studies._folder import CHECKPOINTS, check_folder
from sparsedict.studies._recipe import DEMO, DEMO_BATCH_SIZE, Inspection, recipes
from sparsedict.studies._run_folder import RunFolder
from sparsedict.studies._sites_report import write_sites
from sparsedict.studies._take_apart import take_apart, take_apart_sites
from sparsedict.studies._taken_apart import TakenApart
from sparsedict.studies._used import environment

__all__ = [
    "CHECKPOINTS",
    "DEMO",
    "DEMO_BATCH_SIZE",
    "DictionaryResult",
    "Inspection",
    "RunFolder",
    "TakenApart",
    "check_folder",
    "environment",
    "recipes",
    "take_apart",
    "take_apart_sites",
    "write_sites",
]
