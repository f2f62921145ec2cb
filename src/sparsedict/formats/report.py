"""State dicts of the code of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024 (the report).

The report: https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation
"""

from __future__ import annotations

import os

import torch

from sparsedict.activations import Activation, ReLU
from sparsedict.dictionaries import Dictionary
from sparsedict.formats import _made as made
from sparsedict.formats._made import Learned, Weights
from sparsedict.formats._pickles import read_pickle
from sparsedict.formats._place import Place
from sparsedict.norms import MaxNorm
from sparsedict.storage import StorageError


def recognises(place: Place) -> bool:
    """Whether the file is a state dict of the report's code."""
    if place.suffix != ".pt":
        return False
    try:
        return "b_pre" in read_pickle(place.weights(suffix=".pt"))
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
        activation: ``sd.ReLU()`` where left out, or ``sd.GELU()``; the file doesn't say.
        device: Where to put the weights; the CPU where left out.
        dtype: Type to convert them to; as in the file where left out.

    Raises:
        FileNotFoundError: If the file is missing.
        StorageError: If it is broken, or names anything but tensors.

    Source: the public code of slavachalnev, github.com/slavachalnev/ft_exp.
    """
    place = Place.of(path)
    if place.named is None:
        raise FileNotFoundError(f"`path` must be the .pt file of the report's code, but {place} is a folder.")
    tensors = read_pickle(place.weights(place.named, suffix=".pt"))
    weights = Weights(
        tensors.take_turned("W_enc", "d_in", "n_latents"),
        tensors.take("b_enc", "n_latents"),
        tensors.take("W_dec", "n_latents", "d_in"),
        tensors.take("b_dec", "d_in"),
        input_bias=tensors.take("b_pre", "d_in"),
    )
    tensors.finish("report")
    return made.distiller(
        weights,
        Learned(activation or ReLU()),
        tensors.file,
        decoder_norm=MaxNorm(1.0),
        trained_on={"library": "report"},
        device=device,
        dtype=dtype,
    )
