"""Diagnosis of a site before a training run, and of a dictionary after it. `diagnose` is the entry point."""

from sparsedict.analysis.diagnosis._advice import Advice, Finding
from sparsedict.analysis.diagnosis._dead_causes import DeadCauses
from sparsedict.analysis.diagnosis._diagnose import Diagnosis, diagnose
from sparsedict.analysis.diagnosis._error_tokens import ErrorTokens
from sparsedict.analysis.diagnosis._huge_tokens import HugeTokens, TokenShare
from sparsedict.analysis.diagnosis._point_statistics import PointStatistics

__all__ = [
    "Advice",
    "DeadCauses",
    "Diagnosis",
    "ErrorTokens",
    "Finding",
    "HugeTokens",
    "PointStatistics",
    "TokenShare",
    "diagnose",
]
