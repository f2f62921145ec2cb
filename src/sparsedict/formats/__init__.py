"""Checkpoints of other libraries: one module for each, with ``read`` and, where it is written too, ``write``.

A reader gives a dictionary whose forward pass is the library's own; a writer gives files from which the library
computes what the dictionary does. What would be lost is refused or said. Nothing in the files is run.

A new format is one module of this room with ``recognises`` and ``read``, which :func:`sparsedict.load` finds there.
Outside the package it is an object with these methods (:class:`Format`), given to ``sd.load(path, formats=[...])``.
"""

from sparsedict.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    llama_scope,
    qwen_scope,
    report,
    sae_lens,
    sparsify,
    state_dict,
)
from sparsedict.formats._place import Place
from sparsedict.formats._recognised import Format, checked_formats, recognised

__all__ = [
    "Format",
    "Place",
    "checked_formats",
    "circuit_tracer",
    "dictionary_learning",
    "gemma_scope",
    "llama_scope",
    "qwen_scope",
    "recognised",
    "report",
    "sae_lens",
    "sparsify",
    "state_dict",
]
