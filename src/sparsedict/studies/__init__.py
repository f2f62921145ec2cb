"""Studies: whole investigations made of the rooms below, with results to read, save and open in a browser."""

from sparsedict.studies._folder import check_folder
from sparsedict.studies._recipe import Inspection, Recipe
from sparsedict.studies._take_apart import take_apart
from sparsedict.studies._taken_apart import DictionaryResult, TakenApart

__all__ = ["DictionaryResult", "Inspection", "Recipe", "TakenApart", "check_folder", "take_apart"]
