"""Checkpoints and outputs of the released libraries (see ``make_fixtures``)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import sparsedict as sd

FIXTURES = Path(__file__).parent / "fixtures"
SUFFIX = ".forward.safetensors"

LIBRARIES = ("circuit_tracer", "dictionary_learning", "gemma_scope", "sae_lens", "sparsify")


def cases(library: str) -> list[str]:
    """Returns the names of a library's checkpoints that a path alone is enough for."""
    found = sorted(file.name.removesuffix(SUFFIX) for file in (FIXTURES / library).glob(f"*{SUFFIX}"))
    return [case for case in found if (FIXTURES / library / case).is_dir()]


ALL = [(library, case) for library in LIBRARIES for case in cases(library)]


def location(library: str, case: str) -> Path:
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


def weights_file(folder: Path) -> Path:
    """Returns the file of weights of a checkpoint's folder, the first where there are several."""
    return sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".npz", ".pt"))[0]


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Reads a file of weights by other means than the readers'."""
    if file.suffix == ".safetensors":
        return load_file(file)
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return dict(torch.load(file, weights_only=True))


def write_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes a file of weights in its own format."""
    if file.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    elif file.suffix == ".npz":
        np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
    else:
        torch.save(tensors, file)


def copied(library: str, case: str, folder: Path) -> Path:
    """Copies a checkpoint, to be damaged."""
    target = folder / case
    shutil.copytree(location(library, case), target)
    return target
