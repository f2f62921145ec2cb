"""Checkpoints of other libraries. Each format is a module with ``read``, and in some cases ``write``.

A dictionary that was read has the same forward pass as in the other library. Files that were written give the same
forward pass in the other library. If information would be lost, the functions raise an error or give a warning. They
never execute code from a file.

A new format of this package is a module with ``recognises`` and ``read``. :func:`sparsedict.load` finds it
automatically. A format of another package is an object with these methods (:class:`Format`), passed to
``sd.load(path, formats=[...])``.
"""

from sparsedict.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    llama_scope,
    llamascopium,
    qwen_scope,
    report,
    sae_lens,
    sparsify,
    state_dict,
)
from sparsedict.formats._format import Format, checked_formats, detect_format
from sparsedict.formats._location import Location
from sparsedict.formats._sae_bench import SAEBenchAutoencoder, SAEBenchConfig, as_sae_bench

__all__ = [
    "Format",
    "Location",
    "SAEBenchAutoencoder",
    "SAEBenchConfig",
    "as_sae_bench",
    "checked_formats",
    "circuit_tracer",
    "dictionary_learning",
    "gemma_scope",
    "llama_scope",
    "llamascopium",
    "qwen_scope",
    "detect_format",
    "report",
    "sae_lens",
    "sparsify",
    "state_dict",
]
