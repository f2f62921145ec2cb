"""The embedded model, a small trained transformer, and its text. Both are available offline."""

from sparsedict.zoo._corpus import SourceFile, Split, source_files
from sparsedict.zoo._model import load_bridge, load_model, load_tokenizer, tokens

__all__ = ["SourceFile", "Split", "load_bridge", "load_model", "load_tokenizer", "source_files", "tokens"]
