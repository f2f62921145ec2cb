"""Qwen-Scope: TopK autoencoders of the residual stream, one file ``layer{i}.sae.pt`` for each layer."""

from __future__ import annotations

import os
import re

import torch

from sparsedict import checks
from sparsedict.activations import TopK
from sparsedict.dictionaries import Dictionary
from sparsedict.formats import _build as build
from sparsedict.formats._build import LoadedActivation, Weights
from sparsedict.formats._location import Location, listed
from sparsedict.formats._pickles import read_pickle
from sparsedict.storage import StorageError

_LAYER = re.compile(r"layer(\d{1,5})\.sae\.pt")
_REPOSITORY = re.compile(r"SAE-Res-(?P<model>[\w.-]+)-W\d+K-L0_(?P<k>\d{1,6})")


def recognises(location: Location) -> bool:
    """Returns whether the files are in the format of Qwen-Scope."""
    return any(map(_LAYER.fullmatch, [location.file_name] if location.file_name is not None else location.entries()))


def read(
    path: str | os.PathLike[str],
    *,
    layer: int | None = None,
    k: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads the autoencoder of one layer.

    The latents are the ``k`` largest of ``max(x @ encoder.T + encoder_bias, 0)``.

    Args:
        path: The file of one layer, or the folder.
        layer: The layer to read from a folder of several layers.
        k: Number of active latents per token, which the files don't contain. By default it is read from the name of the
            repository or folder, such as ``SAE-Res-...-L0_50``.
        device: Device of the weights. The CPU by default.
        dtype: Type of the weights. The type in the file by default.

    Raises:
        FileNotFoundError: If a file is missing, or if the folder contains several layers and ``layer`` is left out.
        StorageError: If a file is broken, or ``k`` is unknown.

    Source: the repositories ``Qwen/SAE-Res-*``, 2026.
    """
    location = Location.from_path(path)
    name = location.file_name or _chosen(location, layer)
    number = _LAYER.fullmatch(name)
    tensors = read_pickle(location.weights(name, suffix=".pt"))
    named = _REPOSITORY.search(location.path_of(None)) or _REPOSITORY.search(str(location.folder.resolve()))
    if k is None and named is None:
        raise StorageError(
            f"{tensors.file}: the number of active latents per token is unknown, because the name of the folder or "
            "repository doesn't contain it, such as L0_50. Pass it: `sd.formats.qwen_scope.read(path, k=50)`."
        )
    active = checks.at_least("k", int(named["k"]) if k is None and named is not None else k or 0, 1)
    weights = Weights(
        tensors.take("W_enc", "n_latents", "d_in"),
        tensors.take("b_enc", "n_latents"),
        tensors.take_transposed("W_dec", "d_in", "n_latents"),
        tensors.take("b_dec", "d_in"),
    )
    tensors.check_all_used("Qwen-Scope")
    known = {"model": f"Qwen/{named['model']}"} if named is not None else {}
    known |= {"site": f"model.layers.{number[1]}:out"} if number is not None else {}
    return build.autoencoder(
        weights,
        LoadedActivation(TopK(active)),
        tensors.file,
        offset="none",
        trained_on={"library": "Qwen-Scope", **known},
        device=device,
        dtype=dtype,
    )


def _chosen(location: Location, layer: int | None) -> str:
    files = {int(found[1]): name for name in location.entries() if (found := _LAYER.fullmatch(name))}
    if layer is None and len(files) == 1:
        return next(iter(files.values()))
    if layer not in files:
        what = "contains no such file" if not files else f"contains layers {listed(map(str, sorted(files)))}"
        raise FileNotFoundError(
            f"`layer` must be one of the layers in the folder. {location} {what}, and `layer` is {layer}. Choose a "
            f"layer, for example with `sd.formats.qwen_scope.read(path, layer={min(files, default=0)})`."
        )
    return files[layer]
