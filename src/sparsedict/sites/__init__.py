"""Sites: capturing the activations of MLPs in a model, and replacing MLPs by dictionaries."""

from sparsedict.sites._constant import Constant
from sparsedict.sites._ends import Ends
from sparsedict.sites._neurons import Neurons
from sparsedict.sites._points import Point
from sparsedict.sites._predictions import NoLogitsError
from sparsedict.sites._replace import ReplacementOrderError
from sparsedict.sites._resolve import ResolvedDictionary
from sparsedict.sites._site import Site
from sparsedict.sites._sites import Sites, capture_sites

__all__ = [
    "Constant",
    "Ends",
    "Neurons",
    "NoLogitsError",
    "ResolvedDictionary",
    "Point",
    "ReplacementOrderError",
    "Site",
    "Sites",
    "capture_sites",
]
