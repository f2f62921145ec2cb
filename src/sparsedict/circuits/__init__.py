"""Circuits: exact attribution graphs of any transformer, checked by interventions."""

from sparsedict.circuits._affine import NotAffineError
from sparsedict.circuits._attribute import attribute
from sparsedict.circuits._frozen import Frozen, frozen
from sparsedict.circuits._graph import AttributionGraph
from sparsedict.circuits._influence import influence
from sparsedict.circuits._node import Node
from sparsedict.circuits._result import Check
from sparsedict.circuits._sites import find_sites
from sparsedict.circuits._targets import Latent, Logit, LogitDifference, Target, TopLogits

__all__ = [
    "AttributionGraph",
    "Check",
    "Frozen",
    "Latent",
    "Logit",
    "LogitDifference",
    "Node",
    "NotAffineError",
    "Target",
    "TopLogits",
    "attribute",
    "find_sites",
    "frozen",
    "influence",
]
