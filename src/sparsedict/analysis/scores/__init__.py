"""Scores of latents: rules about tokens, examples, probes, stability, and scores by a language model.

`record` stores the latents of a dictionary on a text. A score is a function from the result to `LatentScores`, so a new
score needs one function and no change elsewhere. Every score has a chance level and bootstrap intervals, and is
deterministic given its seed. ``text.shuffled()`` is the null of every score of latents on text.
"""

from sparsedict.analysis.scores._answers import Ask, SavedAnswers
from sparsedict.analysis.scores._detection import DetectionScore, FuzzingScore
from sparsedict.analysis.scores._example_embedding import ExampleEmbeddingScore
from sparsedict.analysis.scores._explain import Explainer
from sparsedict.analysis.scores._intruder import IntruderScore
from sparsedict.analysis.scores._judged import LanguageModelScore, Question
from sparsedict.analysis.scores._labellings import DEFAULT_LABELLINGS, Affix, ClassAt, PositionInSequence, TokensAt
from sparsedict.analysis.scores._labels import Labelling, Labels
from sparsedict.analysis.scores._plan import Plan, plan
from sparsedict.analysis.scores._probes import ProbeScores, sparse_probes
from sparsedict.analysis.scores._python_nodes import PythonNode
from sparsedict.analysis.scores._record import record
from sparsedict.analysis.scores._representations import Representation, SiteStates, TextEmbedding
from sparsedict.analysis.scores._result import LatentScores, Score, mean_estimate
from sparsedict.analysis.scores._rules import RuleScore
from sparsedict.analysis.scores._stability import stability
from sparsedict.analysis.scores._token_classes import token_class
from sparsedict.analysis.scores._token_latents import TokenLatents

__all__ = [
    "DEFAULT_LABELLINGS",
    "Affix",
    "Ask",
    "ClassAt",
    "DetectionScore",
    "ExampleEmbeddingScore",
    "Explainer",
    "FuzzingScore",
    "IntruderScore",
    "Labelling",
    "Labels",
    "LanguageModelScore",
    "LatentScores",
    "Plan",
    "PositionInSequence",
    "ProbeScores",
    "PythonNode",
    "Question",
    "Representation",
    "RuleScore",
    "SavedAnswers",
    "Score",
    "SiteStates",
    "TextEmbedding",
    "TokenLatents",
    "TokensAt",
    "mean_estimate",
    "plan",
    "record",
    "sparse_probes",
    "stability",
    "token_class",
]
