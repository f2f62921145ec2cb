"""State dicts of the report: the code of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024.

The report: https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation
"""

from __future__ import annotations

import os

import torch

from sparsedict.activations import Activation, ReLU
from sparsedict.dictionaries import Dictionary
from sparsedict.formats import _build as build
from sparsedict.formats._build import LoadedActivation, Weights
from sparsedict.formats._location import Location
from sparsedict.formats._pickles import read_pickle
from sparsedict.norms import MaxNorm
from sparsedict.storage import StorageError


def recognises(location: Location) -> bool:
    """Returns whether the file is a state dict of the report's code."""
    if location.suffix != ".pt":
        return False
    try:
        return "b_pre" in read_pickle(location.weights(suffix=".pt"))
    except (StorageError, FileNotFoundError):
        return False


def read(
    path: str | os.PathLike[str],
    *,
    activation: Activation | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads a student MLP of the report: ``activation((x + b_pre) @ W_enc + b_enc) @ W_dec + b_dec``.

    Args:
        path: The ``.pt`` file.
        activation: The activation, which the file doesn't contain: ``sd.ReLU()``, the default, or ``sd.GELU()``.
        device: Device of the weights. The CPU by default.
        dtype: Type of the weights. The type in the file by default.

    Raises:
        FileNotFoundError: If the file is missing.
        StorageError: If the file is broken, or refers to anything but tensors.

    Source: the public code of slavachalnev, github.com/slavachalnev/ft_exp.
    """
    location = Location.from_path(path)
    if location.file_name is None:
        raise FileNotFoundError(f"`path` must be the .pt file of the report's code, but {location} is a folder.")
    tensors = read_pickle(location.weights(location.file_name, suffix=".pt"))
    weights = Weights(
        tensors.take_transposed("W_enc", "d_in", "n_latents"),
        tensors.take("b_enc", "n_latents"),
        tensors.take("W_dec", "n_latents", "d_in"),
        tensors.take("b_dec", "d_in"),
        input_bias=tensors.take("b_pre", "d_in"),
    )
    tensors.check_all_used("report")
    return build.distiller(
        weights,
        LoadedActivation(activation or ReLU()),
        tensors.file,
        decoder_norm=MaxNorm(1.0),
        trained_on={"library": "report"},
        device=device,
        dtype=dtype,
    )
