"""Checkpoints that the released libraries wrote, and what they computed from them (see ``make_fixtures``)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

import sparsedict as sd

FIXTURES = Path(__file__).parent / "fixtures"
SUFFIX = ".forward.safetensors"

LIBRARIES = ("circuit_tracer", "dictionary_learning", "gemma_scope", "sae_lens", "sparsify")


def cases(library: str) -> list[str]:
    """Returns the names of a library's checkpoints that a path alone is enough for."""
    found = sorted(file.name.removesuffix(SUFFIX) for file in (FIXTURES / library).glob(f"*{SUFFIX}"))
    return [case for case in found if (FIXTURES / library / case).is_dir()]


ALL = [(library, case) for library in LIBRARIES for case in cases(library)]


def place(library: str, case: str) -> Path:
    return FIXTURES / library / case


def assert_equals_the_library(dictionary: sd.Dictionary, library: str, case: str) -> None:
    """Compares latents and outputs with what the library gave."""
    kept = load_file(FIXTURES / library / f"{case}{SUFFIX}")
    latents, outputs = dictionary.float()(kept["inputs"])
    assert int((kept["latents"] != 0).sum()) > 5
    torch.testing.assert_close(latents, kept["latents"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs, kept["outputs"], rtol=1e-5, atol=1e-5)
    sparse = dictionary.encode_sparse(kept["inputs"])
    torch.testing.assert_close(sparse.to_dense(), kept["latents"], rtol=1e-5, atol=1e-5)
