"""Properties of a model that other packages need: vocabulary, maximum length, device and tokens."""

from sparsedict.sites._arguments import IDS
from sparsedict.sites._context import TokenContext
from sparsedict.sites._devices import input_device
from sparsedict.sites._limits import IGNORED_LABEL, check_ids, check_length, longest_row, vocabulary
from sparsedict.sites._modes import evaluating
from sparsedict.sites._points import find_module
from sparsedict.sites._predictions import is_seq2seq, predictions
from sparsedict.sites._suggest import experts_of, mlps
from sparsedict.sites._unembedding import NoUnembeddingError, Unembedding, unembedding
from sparsedict.sites._watch import stack

__all__ = [
    "IDS",
    "IGNORED_LABEL",
    "NoUnembeddingError",
    "TokenContext",
    "Unembedding",
    "check_ids",
    "check_length",
    "evaluating",
    "experts_of",
    "find_module",
    "input_device",
    "is_seq2seq",
    "longest_row",
    "mlps",
    "predictions",
    "stack",
    "unembedding",
    "vocabulary",
]
