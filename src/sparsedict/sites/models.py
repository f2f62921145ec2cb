"""Parts and properties of a model that other packages need: embeddings, vocabulary, length, device and tokens."""

from sparsedict.sites._arguments import IDS
from sparsedict.sites._context import TokenContext
from sparsedict.sites._devices import input_device, loaded
from sparsedict.sites._embedding import output_embedding, token_embedding
from sparsedict.sites._limits import IGNORED_LABEL, check_ids, check_length, described, longest_row, vocabulary
from sparsedict.sites._modes import evaluating, without_parameter_gradients
from sparsedict.sites._passes import uncompiled
from sparsedict.sites._points import Removable, find_module
from sparsedict.sites._predictions import is_seq2seq, logits_in, predictions
from sparsedict.sites._suggest import experts_of, mlps
from sparsedict.sites._tokens import Call, Tokens, prepare
from sparsedict.sites._unembedding import NoUnembeddingError, Unembedding, unembedding
from sparsedict.sites._watch import stack

__all__ = [
    "Call",
    "IDS",
    "IGNORED_LABEL",
    "NoUnembeddingError",
    "Removable",
    "TokenContext",
    "Tokens",
    "Unembedding",
    "check_ids",
    "check_length",
    "described",
    "evaluating",
    "experts_of",
    "find_module",
    "input_device",
    "is_seq2seq",
    "loaded",
    "logits_in",
    "longest_row",
    "mlps",
    "output_embedding",
    "predictions",
    "prepare",
    "stack",
    "token_embedding",
    "uncompiled",
    "unembedding",
    "vocabulary",
    "without_parameter_gradients",
]
